//! The rotation of authorities as operators and workloads meet it: the real binary, many open streams that verify each other
//! all the time, two real sidecars under load, and a process that is killed at any moment.

#[cfg(test)]
mod crash;
#[cfg(test)]
mod mesh;
#[cfg(test)]
mod steps;
#[cfg(test)]
mod support;
