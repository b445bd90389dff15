//! HTTP/2 in frames, for requests that no library would send: header fields enter, bytes leave; and of received bytes, the frames,
//! the status of a stream, and how it ended. Header blocks are written without Huffman coding and without the dynamic table.

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// RFC 9113, section 6: 0 DATA, 1 HEADERS, 3 RST_STREAM, 4 SETTINGS, 7 GOAWAY, 9 CONTINUATION.
    pub kind: u8,
    /// Flags.
    pub flags: u8,
    /// The stream; 0 is the connection.
    pub stream: u32,
    /// The payload.
    pub payload: Vec<u8>,
}

/// The end of a stream's frames.
pub const END_STREAM: u8 = 1;
/// The end of a header block; of SETTINGS: an acknowledgement.
pub const END_HEADERS: u8 = 4;

impl Frame {
    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes();
        let mut out = vec![length[1], length[2], length[3], self.kind, self.flags];
        out.extend(self.stream.to_be_bytes());
        out.extend(&self.payload);
        out
    }

    /// The number in a RST_STREAM (first) or GOAWAY (second).
    pub fn code(&self) -> Option<u32> {
        let at = match self.kind {
            3 => 0,
            7 => 4,
            _ => return None,
        };
        let bytes = self.payload.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }
}

/// The client's preface, with empty SETTINGS and a wide window.
pub fn preface() -> Vec<u8> {
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    out.extend(frame(4, 0, 0, &[]));
    out.extend(frame(8, 0, 0, &(1_u32 << 24).to_be_bytes()));
    out
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    Frame {
        kind,
        flags,
        stream,
        payload: payload.to_vec(),
    }
    .bytes()
}

/// A header block of these fields, whatever they are (RFC 7541 6.2.2, literals without indexing).
pub fn block(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            integer(&mut out, text.len());
            out.extend_from_slice(text);
        }
    }
    out
}

/// A length with a prefix of seven bits (RFC 7541 5.1).
fn integer(out: &mut Vec<u8>, value: usize) {
    if value < 127 {
        out.push(u8::try_from(value).unwrap_or(0));
        return;
    }
    out.push(127);
    let mut left = value - 127;
    while left >= 128 {
        out.push(u8::try_from(left % 128).unwrap_or(0) | 128);
        left /= 128;
    }
    out.push(u8::try_from(left).unwrap_or(0));
}

/// The frames of a request: HEADERS (with CONTINUATION where it is long), DATA, trailers.
pub fn request(
    stream: u32,
    fields: &[(Vec<u8>, Vec<u8>)],
    body: Option<&[u8]>,
    trailers: &[(Vec<u8>, Vec<u8>)],
) -> Vec<u8> {
    let ends = body.is_none() && trailers.is_empty();
    let mut out = headers(stream, &block(fields), ends);
    let pieces: Vec<&[u8]> = body.map_or_else(Vec::new, |body| body.chunks(16 * 1024).collect());
    for (at, piece) in pieces.iter().enumerate() {
        let last = at + 1 == pieces.len() && trailers.is_empty();
        out.extend(frame(0, u8::from(last), stream, piece));
    }
    if pieces.is_empty() && body.is_some() && trailers.is_empty() {
        out.extend(frame(0, END_STREAM, stream, &[]));
    }
    if !trailers.is_empty() {
        out.extend(headers(stream, &block(trailers), true));
    }
    out
}

fn headers(stream: u32, block: &[u8], ends: bool) -> Vec<u8> {
    let mut pieces = block.chunks(16 * 1024).peekable();
    let mut out = Vec::new();
    let mut kind = 1;
    while let Some(piece) = pieces.next() {
        let mut flags = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        if kind == 1 && ends {
            flags |= END_STREAM;
        }
        out.extend(frame(kind, flags, stream, piece));
        kind = 9;
    }
    out
}

/// The whole frames at the beginning of `bytes`.
pub fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut found = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let Some((payload, rest)) = rest.split_at_checked(length) else {
            break;
        };
        found.push(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff,
            payload: payload.to_vec(),
        });
        bytes = rest;
    }
    found
}

/// Whether a stream has ended, by its end, a reset, or a GOAWAY that tells of an error.
pub fn ended(bytes: &[u8], stream: u32) -> bool {
    frames(bytes).iter().any(|frame| match frame.kind {
        0 | 1 => frame.stream == stream && frame.flags & END_STREAM != 0,
        3 => frame.stream == stream,
        7 => frame.code() != Some(0),
        _ => false,
    })
}

/// The final status of a stream. It stands first in its block, and is right for the first answer of a connection, whose block cannot
/// rest on the dynamic table.
pub fn status(bytes: &[u8], stream: u32) -> Option<u16> {
    let frames = frames(bytes);
    let mut blocks = frames
        .iter()
        .filter(|frame| frame.kind == 1 && frame.stream == stream);
    blocks.find_map(|frame| first_status(&frame.payload).filter(|status| *status >= 200))
}

fn first_status(block: &[u8]) -> Option<u16> {
    let indexed = [200, 204, 206, 304, 400, 404, 500];
    // Changes of the table's size may stand before it.
    let start = block.iter().position(|byte| byte & 0xe0 != 0x20)?;
    let block = block.get(start..)?;
    match block.first()? {
        first @ 0x88..=0x8e => indexed.get(usize::from(first - 0x88)).copied(),
        // A literal whose name is `:status`: with indexing, without, never.
        0x48..=0x4e | 0x08..=0x0e | 0x18..=0x1e => {
            let length = block.get(1)?;
            let text = block.get(2..2 + usize::from(length & 0x7f))?;
            if length & 0x80 == 0 {
                std::str::from_utf8(text).ok()?.parse().ok()
            } else {
                digits(text)
            }
        }
        _ => None,
    }
}

/// Three digits in Huffman code (RFC 7541, appendix B): `0`, `1`, `2` have five bits, the others six.
fn digits(text: &[u8]) -> Option<u16> {
    let bits: Vec<u8> = text
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
        .collect();
    let number = |range: &[u8]| range.iter().fold(0_u16, |sum, bit| sum * 2 + u16::from(*bit));
    let (mut at, mut status) = (0, 0);
    for _ in 0..3 {
        let short = number(bits.get(at..at + 5)?);
        let digit = if short <= 2 {
            at += 5;
            short
        } else {
            let long = number(bits.get(at..at + 6)?);
            at += 6;
            // 25 (`3`) to 31 (`9`).
            long.checked_sub(22).filter(|digit| *digit <= 9)?
        };
        status = status * 10 + digit;
    }
    Some(status)
}

/// The bytes of a stream's DATA.
pub fn data(bytes: &[u8], stream: u32) -> Vec<u8> {
    let frames = frames(bytes);
    let own = frames
        .iter()
        .filter(|frame| frame.kind == 0 && frame.stream == stream);
    own.flat_map(|frame| frame.payload.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> (Vec<u8>, Vec<u8>) {
        (name.as_bytes().to_vec(), value.as_bytes().to_vec())
    }

    #[test]
    fn frames_come_back_as_they_were_written() {
        let bytes = request(
            1,
            &[pair(":method", "GET"), pair("x", &"y".repeat(40_000))],
            Some(b"hi"),
            &[pair("t", "1")],
        );
        let kinds: Vec<_> = frames(&bytes)
            .iter()
            .map(|frame| (frame.kind, frame.flags))
            .collect();
        assert_eq!(kinds, [(1, 0), (9, 0), (9, 4), (0, 0), (1, 5)]);
        assert_eq!(data(&bytes, 1), b"hi");
        assert!(ended(&bytes, 1) && !ended(&bytes, 3));
    }

    #[test]
    fn a_status_is_read_in_each_way_it_is_written() {
        let answer = |block: &[u8]| frame(1, 5, 1, block);
        assert_eq!(status(&answer(&[0x88]), 1), Some(200));
        assert_eq!(status(&answer(b"\x48\x03403"), 1), Some(403));
        // RFC 7541, C.6.1: `302` is 64 02.
        assert_eq!(status(&answer(&[0x48, 0x82, 0x64, 0x02]), 1), Some(302));
    }
}
