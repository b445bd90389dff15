//! Sends exactly the bytes that it is told to, over mutual TLS straight on a port, through an HBONE tunnel, or plainly, and tells
//! what came back. One JSON line of standard input is one connection ([`hopguard_tests::Shot`]), one line of standard output its
//! end ([`hopguard_tests::Flight`]).

use std::io::{self, BufRead, Write};

use hopguard_tests::shoot;

fn main() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    for line in io::stdin().lock().lines() {
        let shot = serde_json::from_str(&line?).map_err(io::Error::other)?;
        let flight = runtime.block_on(shoot(&shot));
        let mut out = io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(&flight)?)?;
        out.flush()?;
    }
    Ok(())
}
