//! The Workload API as four foreign clients see it, each on a stack of its own making: PyPI `spiffe`, PyPI `spiffe-defakto`, the
//! crate `spiffe`, and a bare gRPC client that knows the messages by reflection alone. One table of questions, and every
//! client must get every answer; where a library cannot even ask, the table says so, and it is held to that.

#[cfg(test)]
mod beside;
#[cfg(test)]
mod cases;
#[cfg(test)]
mod certificates;
#[cfg(test)]
mod client_crate;
#[cfg(test)]
mod drivers;
#[cfg(test)]
mod streams;
#[cfg(test)]
#[path = "../ca_workload_api/support.rs"]
#[expect(
    dead_code,
    reason = "what starts an authority is shared, and not all of it is needed here"
)]
mod support;
#[cfg(test)]
mod tokens;
