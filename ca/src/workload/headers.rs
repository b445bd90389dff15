//! Header blocks in HPACK (RFC 7541, 6), walked without decoding: no table is kept. In the value of an `:authority`
//! that comes as a plain literal, `%` becomes `-`, in place and of the same length, so that the encoder's state and the
//! decoder's stay in step. Everything else passes as it came.
//!
//! Why: gRPC clients with a C core (Python, C++, Ruby, PHP) send the percent-encoded path of the socket as `:authority`,
//! which `h2` refuses with PROTOCOL_ERROR before any service sees the call (h2#487). On this socket `:authority` decides
//! nothing.

const AUTHORITY: &[u8] = b":authority";
/// Index of `:authority` in the static table.
const AUTHORITY_INDEX: u32 = 1;

/// The walker of a connection's header blocks.
#[derive(Debug)]
pub struct Headers {
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The first byte of a field.
    Field,
    /// The rest of an integer (RFC 7541, 5.1).
    Integer {
        so_far: u32,
        shift: u32,
        then: Then,
    },
    /// The first byte of a string: Huffman flag and length.
    Length(Text),
    /// In a string that is skipped or compared.
    Name {
        left: u32,
        matched: Option<usize>,
    },
    Value {
        left: u32,
        repair: bool,
    },
    /// Not HPACK: the decoder will refuse it.
    Aside,
}

#[derive(Clone, Copy, Debug)]
enum Then {
    /// An indexed field or a table size: nothing follows.
    Field,
    /// The index of a literal's name.
    NameIndex,
    /// The length of a string.
    Length(Text, bool),
}

/// Which string of a literal field.
#[derive(Clone, Copy, Debug)]
enum Text {
    Name,
    Value { authority: bool },
}

impl Headers {
    pub fn new() -> Self {
        Self { state: State::Field }
    }

    /// A new block starts clean; one that ended within a field was bad, and stays so.
    pub fn end_of_block(&mut self) {
        if !matches!(self.state, State::Field) {
            self.state = State::Aside;
        }
    }

    /// Walks over a part of a block.
    pub fn walk(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.state = match self.state {
                State::Aside => return,
                State::Field => field(*byte),
                State::Integer { so_far, shift, then } => integer(*byte, so_far, shift, then),
                State::Length(text) => {
                    let raw = *byte & 0x80 == 0;
                    prefix(*byte, 7, Then::Length(text, raw))
                }
                State::Name { left, matched } => {
                    let matched = matched
                        .filter(|at| AUTHORITY.get(*at) == Some(byte))
                        .map(|at| at + 1);
                    match left {
                        0 | 1 => State::Length(Text::Value {
                            authority: matched == Some(AUTHORITY.len()),
                        }),
                        _ => State::Name {
                            left: left - 1,
                            matched,
                        },
                    }
                }
                State::Value { left, repair } => {
                    if repair && *byte == b'%' {
                        *byte = b'-';
                    }
                    match left {
                        0 | 1 => State::Field,
                        _ => State::Value {
                            left: left - 1,
                            repair,
                        },
                    }
                }
            };
        }
    }
}

/// The representations of RFC 7541, 6.1 to 6.3, by their leading bits.
fn field(byte: u8) -> State {
    if byte & 0x80 != 0 {
        prefix(byte, 7, Then::Field)
    } else if byte & 0x40 != 0 {
        prefix(byte, 6, Then::NameIndex)
    } else if byte & 0x20 != 0 {
        prefix(byte, 5, Then::Field)
    } else {
        prefix(byte, 4, Then::NameIndex)
    }
}

fn prefix(byte: u8, bits: u32, then: Then) -> State {
    let mask = (1_u32 << bits) - 1;
    let value = u32::from(byte) & mask;
    if value == mask {
        State::Integer {
            so_far: value,
            shift: 0,
            then,
        }
    } else {
        reached(value, then)
    }
}

fn integer(byte: u8, so_far: u32, shift: u32, then: Then) -> State {
    let more = u32::from(byte & 0x7f).checked_shl(shift).filter(|_| shift <= 21);
    match more.and_then(|more| so_far.checked_add(more)) {
        Some(value) if byte & 0x80 != 0 => State::Integer {
            so_far: value,
            shift: shift + 7,
            then,
        },
        Some(value) => reached(value, then),
        None => State::Aside,
    }
}

/// An integer is complete.
fn reached(value: u32, then: Then) -> State {
    match then {
        Then::Field => State::Field,
        Then::NameIndex if value == 0 => State::Length(Text::Name),
        Then::NameIndex => State::Length(Text::Value {
            authority: value == AUTHORITY_INDEX,
        }),
        Then::Length(Text::Name, raw) => match value {
            0 => State::Length(Text::Value { authority: false }),
            left => {
                let candidate = raw && usize::try_from(left) == Ok(AUTHORITY.len());
                State::Name {
                    left,
                    matched: candidate.then_some(0),
                }
            }
        },
        Then::Length(Text::Value { authority }, raw) => match value {
            0 => State::Field,
            left => State::Value {
                left,
                repair: authority && raw,
            },
        },
    }
}
