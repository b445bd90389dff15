use proptest::prelude::*;

use super::*;

/// Captured from grpcio 1.85.1 on a socket `/tmp/cap dir/a.sock`: preface, SETTINGS, two calls of FetchX509SVID and what
/// lies between. The second call names `:authority` by its index only.
const CAPTURED: &str = "\
    505249202a20485454502f322e300d0a0d0a534d0d0a0d0a0000240400000000000002000000000003000000000004004000\
    00000500400000000600004000fe0300000001000004080000000000003f0001000000040100000000000110010400000001\
    40053a70617468202f537069666665576f726b6c6f61644150492f46657463685835303953564944400a3a617574686f7269\
    747918746d70253246636170253230646972253246612e736f636b8386400c636f6e74656e742d74797065106170706c6963\
    6174696f6e2f677270634002746508747261696c6572734014677270632d6163636570742d656e636f64696e67176964656e\
    746974792c206465666c6174652c20677a6970400c677270632d74696d656f7574023153400a757365722d6167656e743067\
    7270632d707974686f6e2f312e38352e3120677270632d632f35382e302e3020286c696e75783b2063687474703229001277\
    6f726b6c6f61642e7370696666652e696f047472756500000408000000000100000005000005000100000001000000000000\
    00040800000000000000000500000403000000000100000008000035010400000003c4c38386c2c1c0400c677270632d7469\
    6d656f757405313031306dbf0012776f726b6c6f61642e7370696666652e696f047472756500000500010000000300000000\
    0000000403000000000300000008\
";

fn captured() -> Vec<u8> {
    hex::decode(CAPTURED).unwrap()
}

fn walked(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    Frames::new().walk(&mut bytes);
    bytes
}

fn changes(before: &[u8], after: &[u8]) -> Vec<(u8, u8)> {
    before
        .iter()
        .zip(after)
        .filter(|(b, a)| b != a)
        .map(|(b, a)| (*b, *a))
        .collect()
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

/// Preface, SETTINGS, and these frames.
fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE.to_vec(), frame(4, 0, &[]), frames.concat()].concat()
}

fn text(huffman: bool, value: &[u8]) -> Vec<u8> {
    let length = u8::try_from(value.len()).unwrap();
    assert!(length < 127);
    [&[if huffman { 0x80 | length } else { length }][..], value].concat()
}

fn repaired(frames: &[Vec<u8>]) -> usize {
    let bytes = connection(frames);
    let changes = changes(&bytes, &walked(&bytes));
    assert!(changes.iter().all(|change| *change == (b'%', b'-')));
    changes.len()
}

#[test]
fn what_grpc_sends_becomes_an_authority_that_h2_takes() {
    let before = captured();
    let after = walked(&before);
    assert_eq!(changes(&before, &after), vec![(b'%', b'-'); 3]);
    let wanted = b"tmp-2Fcap-20dir-2Fa.sock";
    assert!(after.windows(wanted.len()).any(|window| window == wanted));
}

#[test]
fn it_does_not_matter_how_the_bytes_are_cut() {
    let bytes = captured();
    let whole = walked(&bytes);
    for cut in 0..bytes.len() {
        let mut bytes = bytes.clone();
        let mut frames = Frames::new();
        let (first, second) = bytes.split_at_mut(cut);
        frames.walk(first);
        frames.walk(second);
        assert_eq!(bytes, whole, "cut at {cut}");
    }
    let mut single = bytes;
    let mut frames = Frames::new();
    single.chunks_mut(1).for_each(|byte| frames.walk(byte));
    assert_eq!(single, whole, "byte by byte");
}

#[test]
fn every_way_to_write_the_name_is_known() {
    let value = text(false, b"a%2Fb");
    for name in [vec![0x41], vec![0x01], vec![0x11]] {
        assert_eq!(
            repaired(&[frame(HEADERS, END_HEADERS, &[name, value.clone()].concat())]),
            1
        );
    }
    for first in [0x40, 0x00, 0x10] {
        let block = [vec![first], text(false, AUTHORITY_NAME), value.clone()].concat();
        assert_eq!(repaired(&[frame(HEADERS, END_HEADERS, &block)]), 1);
    }
}

const AUTHORITY_NAME: &[u8] = b":authority";

#[test]
fn nothing_else_is_touched() {
    let value = text(false, b"a%2Fb");
    let field = |name: &[u8], value: &[u8]| [vec![0x40], text(false, name), value.to_vec()].concat();
    for block in [
        field(b":path", &value),
        field(b":authoritY", &value),
        field(b"x:authorit", &value),
        field(b":authority2", &value),
        // By an index that is not that of :authority.
        [vec![0x44], value.clone()].concat(),
        // Huffman coded: its bytes are not characters.
        [vec![0x41], text(true, b"%%%")].concat(),
        // A Huffman coded name that looks like it.
        [vec![0x40], text(true, AUTHORITY_NAME), value.clone()].concat(),
    ] {
        assert_eq!(repaired(&[frame(HEADERS, END_HEADERS, &block)]), 0, "{block:x?}");
    }
    // A body may hold what looks like a header.
    let block = [vec![0x41], value].concat();
    assert_eq!(
        repaired(&[
            frame(0, 0, &block),
            frame(4, 0, &block),
            frame(0x42, 0xff, &block)
        ]),
        0
    );
}

#[test]
fn padding_priority_and_continuation_are_walked() {
    let block = [vec![0x41], text(false, b"a%2Fb%")].concat();
    let padded = [&[3][..], &block, b"%%%"].concat();
    assert_eq!(repaired(&[frame(HEADERS, END_HEADERS | PADDED, &padded)]), 2);
    let priority = [b"%%%%%", &block[..]].concat();
    assert_eq!(repaired(&[frame(HEADERS, END_HEADERS | PRIORITY, &priority)]), 2);
    let both = [&[2][..], b"%%%%%", &block, b"%%"].concat();
    assert_eq!(
        repaired(&[frame(HEADERS, END_HEADERS | PRIORITY | PADDED, &both)]),
        2
    );
    for cut in 0..=block.len() {
        let frames = [
            frame(HEADERS, 0, &block[..cut]),
            frame(CONTINUATION, END_HEADERS, &block[cut..]),
        ];
        assert_eq!(repaired(&frames), 2, "cut at {cut}");
    }
}

#[test]
fn every_block_of_a_connection_is_walked() {
    let block = [
        vec![0x82, 0x41],
        text(false, b"%"),
        vec![0x3f, 0xe1, 0x1f],
        vec![0xff, 0x10],
    ]
    .concat();
    let frames: Vec<_> = (0..5)
        .flat_map(|_| [frame(HEADERS, END_HEADERS, &block), frame(0, 1, b"%")])
        .collect();
    assert_eq!(repaired(&frames), 5);
}

#[test]
fn long_values_have_long_lengths() {
    let value = b"%".repeat(300);
    let length = [0x7f, 0x80 | u8::try_from((300 - 127) & 0x7f).unwrap(), 1];
    let block = [&[0x41][..], &length, &value].concat();
    assert_eq!(repaired(&[frame(HEADERS, END_HEADERS, &block)]), 300);
}

#[test]
fn what_is_not_http2_or_not_hpack_is_left_to_the_real_parser() {
    let block = [vec![0x41], text(false, b"%")].concat();
    let good = frame(HEADERS, END_HEADERS, &block);
    // An integer without an end, a block that ends within a field, padding longer than the frame.
    let endless = frame(HEADERS, END_HEADERS, &[&[0x7f][..], &[0xff; 12], &block].concat());
    assert_eq!(repaired(&[endless, good.clone()]), 0);
    assert_eq!(repaired(&[frame(HEADERS, END_HEADERS, &[0x41]), good.clone()]), 0);
    assert_eq!(
        repaired(&[frame(HEADERS, END_HEADERS | PADDED, &[9, 0x41]), good.clone()]),
        0
    );
    let http1 = [&b"GET /%2F HTTP/1.1\r\n\r\n"[..], &connection(&[good])].concat();
    assert_eq!(walked(&http1), http1);
}

#[test]
fn a_client_has_opened_after_its_first_frame_header() {
    let bytes = connection(&[]);
    let mut frames = Frames::new();
    for (index, byte) in bytes.iter().enumerate() {
        assert!(!frames.opened(), "after {index}");
        frames.walk(&mut [*byte]);
    }
    assert!(frames.opened());
    let mut http1 = Frames::new();
    http1.walk(&mut b"GET / HTTP/1.1\r\n\r\n".repeat(20));
    assert!(!http1.opened());
}

proptest! {
    /// Whatever comes: no panic, same length, and no byte changes but `%` to `-`.
    #[test]
    fn any_bytes_pass(tail in proptest::collection::vec(any::<u8>(), 0..600), cut in 0..600_usize) {
        let bytes = [connection(&[]), tail].concat();
        let mut after = bytes.clone();
        let mut frames = Frames::new();
        let cut = cut.min(after.len());
        let (first, second) = after.split_at_mut(cut);
        frames.walk(first);
        frames.walk(second);
        prop_assert!(changes(&bytes, &after).iter().all(|change| *change == (b'%', b'-')));
        prop_assert_eq!(after, walked(&bytes), "the cut does not matter");
    }

    /// What the real decoder reads out of a repaired block is what was sent, but for that one value.
    #[test]
    fn any_block_stays_in_step(values in proptest::collection::vec("[a-z%/ ]{0,40}", 1..8)) {
        let mut block = Vec::new();
        let mut wanted = 0;
        for (index, value) in values.iter().enumerate() {
            let authority = index % 2 == 0;
            if authority { wanted += value.matches('%').count(); }
            block.extend([vec![0x40], text(false, if authority { AUTHORITY_NAME } else { b"x" }), text(false, value.as_bytes())].concat());
        }
        prop_assert_eq!(repaired(&[frame(HEADERS, END_HEADERS, &block)]), wanted);
    }
}
