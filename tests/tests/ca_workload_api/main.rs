//! The certificate authority as its users meet it: the real binary, its sockets, and the stock PyPI client `spiffe` on
//! gRPC's C core as a foreign workload. Some things only root can show (a client of another uid); those tests say so.

#[cfg(test)]
mod attestation;
#[cfg(test)]
mod cgroups;
#[cfg(test)]
mod entries;
#[cfg(test)]
mod foreign_client;
#[cfg(test)]
mod latency;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod registration;
#[cfg(test)]
mod support;
#[cfg(test)]
mod svid;
#[cfg(test)]
mod why;
