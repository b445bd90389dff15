//! The redirect with the real iptables and the real kernel, each test in namespaces of its own.

#[cfg(test)]
mod doctor;
#[cfg(test)]
mod ns;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod traffic;
