//! One read buffer a worker thread: whoever reads borrows it for the length of one poll and keeps what it got elsewhere.
//! An idle connection thus holds no buffer at all. What is in it after the poll is nobody's.

use std::cell::RefCell;

/// Large enough that bulk costs few system calls.
const SIZE: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SIZE]);
}

/// Lends the thread's buffer. A reader inside a reader gets a small one of its own.
pub(super) fn with<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with(|buffer| match buffer.try_borrow_mut() {
        Ok(mut buffer) => work(&mut buffer),
        Err(_) => work(&mut [0; 4096]),
    })
}
