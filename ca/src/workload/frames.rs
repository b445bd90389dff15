//! The HTTP/2 frames that a client sends, walked byte by byte to find the header blocks (RFC 9113, 4.1 and 6). It keeps
//! a few numbers and no bytes, changes nothing but the characters that [`Headers`] points at, and stands aside for good
//! as soon as something is not HTTP/2: then the real parser refuses it.

use super::headers::Headers;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADER_LENGTH: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// The walker of one connection.
#[derive(Debug)]
pub struct Frames {
    state: State,
    headers: Headers,
    opened: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// This many bytes of the preface were seen.
    Preface(usize),
    /// A frame's header, filled so far.
    Header {
        bytes: [u8; HEADER_LENGTH],
        filled: usize,
    },
    /// In a HEADERS or CONTINUATION frame.
    Block(Block),
    /// In a frame that is none of our business, this many bytes to go.
    Skip(u32),
    /// Not HTTP/2.
    Aside,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    /// The pad length field comes next.
    pad_field: bool,
    /// Bytes before the block (stream dependency and weight).
    before: u32,
    /// Bytes of the block itself; padding not known yet is counted in it.
    block: u32,
    padding: u32,
    last: bool,
}

impl Frames {
    pub fn new() -> Self {
        Self {
            state: State::Preface(0),
            headers: Headers::new(),
            opened: false,
        }
    }

    /// Whether the client has shown itself to speak HTTP/2: preface, and the header of its first frame.
    pub fn opened(&self) -> bool {
        self.opened
    }

    /// Walks over what was read, in the order it was read.
    pub fn walk(&mut self, bytes: &mut [u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = match self.state {
                State::Aside => return,
                State::Skip(left) => {
                    let (taken, left) = take(left, rest.len());
                    self.state = if left == 0 { start() } else { State::Skip(left) };
                    taken
                }
                State::Preface(seen) => self.preface(seen, rest),
                State::Header { bytes, filled } => self.header(bytes, filled, rest),
                State::Block(block) => self.block(block, rest),
            };
            match rest.split_at_mut_checked(taken) {
                Some((_, after)) => rest = after,
                None => return,
            }
        }
    }

    fn preface(&mut self, seen: usize, bytes: &[u8]) -> usize {
        let wanted = PREFACE.get(seen..).unwrap_or_default();
        let count = wanted.len().min(bytes.len());
        self.state = match (bytes.get(..count), wanted.get(..count)) {
            (Some(got), Some(want)) if got == want && count == wanted.len() => start(),
            (Some(got), Some(want)) if got == want => State::Preface(seen + count),
            _ => State::Aside,
        };
        count
    }

    fn header(&mut self, mut header: [u8; HEADER_LENGTH], filled: usize, bytes: &[u8]) -> usize {
        let mut taken = 0;
        for (to, from) in header.iter_mut().skip(filled).zip(bytes) {
            *to = *from;
            taken += 1;
        }
        if filled + taken < HEADER_LENGTH {
            self.state = State::Header {
                bytes: header,
                filled: filled + taken,
            };
            return taken;
        }
        self.opened = true;
        let [high, middle, low, kind, flags, ..] = header;
        let length = u32::from_be_bytes([0, high, middle, low]);
        let padded = kind == HEADERS && flags & PADDED != 0;
        let before = if kind == HEADERS && flags & PRIORITY != 0 {
            5
        } else {
            0
        };
        self.state = match kind {
            HEADERS | CONTINUATION => match length.checked_sub(before + u32::from(padded)) {
                Some(block) => State::Block(Block {
                    pad_field: padded,
                    before,
                    block,
                    padding: 0,
                    last: flags & END_HEADERS != 0,
                }),
                None => State::Aside,
            },
            _ if length == 0 => start(),
            _ => State::Skip(length),
        };
        // A frame without a payload ends here.
        if let State::Block(block) = self.state {
            self.end_if_done(block);
        }
        taken
    }

    fn block(&mut self, mut at: Block, bytes: &mut [u8]) -> usize {
        let taken = if at.pad_field {
            at.pad_field = false;
            at.padding = bytes.first().copied().map_or(0, u32::from);
            match at.block.checked_sub(at.padding) {
                Some(block) => at.block = block,
                None => {
                    self.state = State::Aside;
                    return bytes.len();
                }
            }
            1
        } else if at.before > 0 {
            let (taken, left) = take(at.before, bytes.len());
            at.before = left;
            taken
        } else if at.block > 0 {
            let (taken, left) = take(at.block, bytes.len());
            at.block = left;
            self.headers.walk(bytes.get_mut(..taken).unwrap_or_default());
            taken
        } else {
            let (taken, left) = take(at.padding, bytes.len());
            at.padding = left;
            taken
        };
        self.state = State::Block(at);
        self.end_if_done(at);
        taken
    }

    fn end_if_done(&mut self, block: Block) {
        if !block.pad_field && block.before + block.block + block.padding == 0 {
            self.state = start();
            if block.last {
                self.headers.end_of_block();
            }
        }
    }
}

fn start() -> State {
    State::Header {
        bytes: [0; HEADER_LENGTH],
        filled: 0,
    }
}

/// How much of `left` lies in a buffer of `length`, and how much is left then.
fn take(left: u32, length: usize) -> (usize, u32) {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    let taken = left.min(length);
    (taken as usize, left - taken)
}

#[cfg(test)]
mod tests;
