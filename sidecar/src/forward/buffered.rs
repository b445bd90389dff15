//! A stream with the bytes that were read from it too early: heads are parsed in place, and what follows a head stays for
//! its next reader. Bounded by [`MAX_BUFFER`], and empty-handed while idle.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::scratch;

/// Most bytes that a stream holds unread, unless a larger head is allowed.
pub const MAX_BUFFER: usize = 64 * 1024;
/// The first buffer. It grows only when reads fill it.
const FIRST: usize = 4 * 1024;

/// A stream and its unread bytes.
pub struct Buffered<S> {
    io: S,
    /// All of it is memory; `start..end` is data.
    memory: Vec<u8>,
    start: usize,
    end: usize,
    most: usize,
    /// The last read filled all there was: more room will be used.
    filled: bool,
    eof: bool,
}

impl<S> Buffered<S> {
    /// A stream from which nothing was read.
    pub fn new(io: S) -> Self {
        Self::with_data(io, Vec::new())
    }

    /// A stream from which `data` was read already, by protocol detection for instance.
    pub fn with_data(io: S, data: Vec<u8>) -> Self {
        let end = data.len();
        Self {
            io,
            memory: data,
            start: 0,
            end,
            most: MAX_BUFFER.max(end),
            filled: false,
            eof: false,
        }
    }

    /// What was read and not consumed.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        self.memory.get(self.start..self.end).unwrap_or_default()
    }

    /// Takes `count` bytes away from the front of [`Self::data`].
    pub fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Gives the memory back when it holds no data.
    pub fn release(&mut self) {
        if self.data().is_empty() {
            self.memory = Vec::new();
            self.filled = false;
        }
    }

    /// Whether no more can be read before something is consumed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.data().len() >= self.most
    }

    /// Whether the other side has ended its direction.
    #[must_use]
    pub fn at_eof(&self) -> bool {
        self.eof
    }

    /// Lets the buffer hold `bytes`, if that is more than it may now.
    pub fn allow(&mut self, bytes: usize) {
        self.most = self.most.max(bytes);
    }

    /// The stream.
    #[must_use]
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// The stream. Reading from it passes over what is buffered.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.io
    }

    /// The stream and what was read from it too early.
    #[must_use]
    pub fn into_parts(self) -> (S, Vec<u8>) {
        let data = self.data().to_vec();
        (self.io, data)
    }
}

impl<S: AsyncRead + Unpin> Buffered<S> {
    /// Reads more behind what is there. `0`: the other side has ended its direction.
    ///
    /// # Errors
    /// The stream's error, or `OutOfMemory` when the buffer is full.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.is_full() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                "the buffer is full",
            )));
        }
        let read = if self.memory.is_empty() {
            self.poll_first(cx)
        } else {
            self.poll_behind(cx)
        };
        if let Poll::Ready(Ok(0)) = read {
            self.eof = true;
        }
        read
    }

    /// As [`Self::poll_fill`].
    ///
    /// # Errors
    /// As [`Self::poll_fill`].
    pub async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// Whether the stream is as an idle connection should be: nothing came, and the other side has not closed it. Looks
    /// once and does not wait.
    #[must_use]
    pub fn is_quiet(&mut self) -> bool {
        self.data().is_empty()
            && !self.eof
            && self
                .poll_fill(&mut Context::from_waker(std::task::Waker::noop()))
                .is_pending()
    }

    /// With no memory yet: through the thread's buffer, so that waiting costs none.
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Self { io, memory, most, .. } = self;
        let read = scratch::with(|space| {
            let room = space.len().min(*most);
            let mut read = ReadBuf::new(space.get_mut(..room).unwrap_or_default());
            std::task::ready!(Pin::new(io).poll_read(cx, &mut read))?;
            let got = read.filled();
            if !got.is_empty() {
                *memory = vec![0; got.len().max(FIRST).min(*most)];
                put(memory, got);
            }
            Poll::Ready(Ok(got.len()))
        });
        if let Poll::Ready(Ok(count)) = read {
            self.start = 0;
            self.end = count;
            self.filled = count >= FIRST;
        }
        read
    }

    fn poll_behind(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.make_room();
        let space = self.memory.get_mut(self.end..).unwrap_or_default();
        let mut read = ReadBuf::new(space);
        std::task::ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
        let count = read.filled().len();
        self.filled = read.remaining() == 0;
        self.end = self.end.saturating_add(count);
        Poll::Ready(Ok(count))
    }

    /// Room behind the data: by growing when reads have been filling all there was, else by moving the data forward.
    fn make_room(&mut self) {
        let held = self.data().len();
        let size = self.memory.len();
        let full = self.end == size;
        if full && self.start > 0 && held < size / 2 {
            self.memory.copy_within(self.start..self.end, 0);
        } else if (full || (held == 0 && self.filled)) && size < self.most {
            let mut larger = vec![0; size.saturating_mul(4).max(FIRST).min(self.most)];
            larger
                .iter_mut()
                .zip(self.data())
                .for_each(|(to, from)| *to = *from);
            self.memory = larger;
            self.filled = false;
        } else if self.start > 0 {
            self.memory.copy_within(self.start..self.end, 0);
        } else {
            return;
        }
        self.start = 0;
        self.end = held;
    }
}

/// Copies `from` to the front of `to`, which is at least as long.
fn put(to: &mut [u8], from: &[u8]) {
    if let Some(to) = to.get_mut(..from.len()) {
        to.copy_from_slice(from);
    }
}

/// Reads what is buffered first.
impl<S: AsyncRead + Unpin> AsyncRead for Buffered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.data().len().min(buf.remaining());
        if count == 0 {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        buf.put_slice(self.data().get(..count).unwrap_or_default());
        self.consume(count);
        self.release();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Buffered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_full_buffer_is_no_end() {
        let (mut far, near) = duplex(1 << 20);
        far.write_all(&vec![b'a'; MAX_BUFFER + 10]).await.unwrap();
        let mut near = Buffered::new(near);
        while !near.is_full() {
            assert!(near.fill().await.unwrap() > 0);
        }
        assert_eq!(near.data().len(), MAX_BUFFER);
        assert_eq!(near.fill().await.unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        assert!(!near.at_eof());
        near.allow(MAX_BUFFER + 5);
        assert_eq!(near.fill().await.unwrap(), 5);
        near.consume(1);
        assert_eq!(near.fill().await.unwrap(), 1);
        drop(far);
        near.consume(usize::MAX);
        assert_eq!(
            (
                near.fill().await.unwrap(),
                near.fill().await.unwrap(),
                near.at_eof()
            ),
            (4, 0, true)
        );
    }

    /// Any mixture of reading and consuming gives the bytes in order.
    #[tokio::test]
    async fn bytes_come_in_order_however_they_are_taken() {
        const TOTAL: usize = 400_000;
        let (mut far, near) = duplex(3_000);
        let writer = tokio::spawn(async move {
            let bytes: Vec<u8> = (0..TOTAL).map(|at| (at % 251).to_le_bytes()[0]).collect();
            far.write_all(&bytes).await.unwrap();
        });
        let mut near = Buffered::new(near);
        let (mut at, mut seed) = (0, 7_usize);
        while at < TOTAL {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if near.data().is_empty() || (seed >> 33) % 3 > 0 && !near.is_full() {
                near.fill().await.unwrap();
            }
            let count = near.data().len().min((seed >> 40) % 9_000);
            assert!(
                near.data()[..count]
                    .iter()
                    .zip(at..)
                    .all(|(byte, at)| usize::from(*byte) == at % 251),
                "at {at}"
            );
            near.consume(count);
            at += count;
            if at % 5 == 0 {
                near.release();
            }
        }
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn idle_it_holds_no_memory_and_what_was_peeked_comes_first() {
        let (mut far, near) = duplex(64);
        far.write_all(b" world").await.unwrap();
        drop(far);
        let mut near = Buffered::with_data(near, b"hello".to_vec());
        let mut text = String::new();
        near.read_to_string(&mut text).await.unwrap();
        assert_eq!((text.as_str(), near.memory.capacity()), ("hello world", 0));
        let (far, near) = duplex(64);
        let mut near = Buffered::new(near);
        assert!(near.is_quiet());
        assert_eq!(near.memory.capacity(), 0, "waiting costs nothing");
        drop(far);
    }
}
