use super::*;

fn one(text: &str) -> Node {
    let mut documents = read(text).unwrap();
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0).root
}

fn again(text: &str) -> String {
    write([&one(text)])
}

#[test]
fn what_could_be_something_else_is_written_letter_by_letter() {
    for plain in [
        "0644",
        "0o644",
        "1_000",
        "3.10",
        "1e3",
        "yes",
        "No",
        "on",
        "y",
        "~",
        "null",
        "22:22",
        "2024-01-01",
        "-1",
        ".inf",
        "+1",
        "0x1F",
        "True",
    ] {
        assert_eq!(again(&format!("a: {plain}")), format!("a: {plain}\n"));
        assert_eq!(
            again(&format!("a: '{plain}'")),
            format!("a: \"{plain}\"\n"),
            "quoted stays a text"
        );
        assert_eq!(again(&format!("{plain}: b")), format!("{plain}: b\n"));
    }
    assert_eq!(again("a:"), "a: ~\n");
    assert_eq!(again("a: ''"), "a: \"\"\n");
    assert_eq!(again("a: !!str 12"), "a: \"12\"\n");
}

const TEXTS: &[&str] = &[
    "",
    " ",
    "a",
    "a b",
    " a",
    "a ",
    "a:",
    "a: b",
    "a:b",
    "a #b",
    "#a",
    "- a",
    "-",
    "&a",
    "*a",
    "!a",
    "%a",
    "@a",
    "`a",
    "{a}",
    "[a]",
    "a\nb",
    "a\nb\n",
    "a\n\n\nb\n\n\n",
    "\na",
    " a\nb",
    "a\n b\n  c\n",
    "\n",
    "\n\n",
    "a\r\nb",
    "a\tb",
    "\ta\nb",
    "a\u{85}b\nc",
    "a\u{2028}b",
    "\u{feff}",
    "\u{1}",
    "\u{7f}",
    "é",
    "日本\n語",
    "😀",
    "\"",
    "\\",
    "'",
    "a'b\"c\\n",
    "|",
    ">",
    "? a",
    "a,b",
    "true",
    "12",
    "---",
    "--- a\nb",
    "...",
    "a\n...\nb",
    "a\n---\nb\n",
    "a \n b \n",
    "<<",
    "=",
    "a\n\t\nb",
    "${A:-b}",
    "$$A",
    "key: |\n  x\n",
    "a\n \n \nb\n",
    "a\n   ",
];

#[test]
fn texts_come_back_whatever_is_in_them() {
    for text in TEXTS.iter().copied() {
        let tree = Node::map([
            ("k", Node::string(text)),
            (
                "l",
                Node::list([Node::string(text), Node::list([Node::string(text)])]),
            ),
            ("m", Node::map([(text, Node::string(text))])),
        ]);
        let written = write([&tree, &tree]);
        let back = read(&written).unwrap_or_else(|error| panic!("{text:?}: {error}\n{written}"));
        assert_eq!(back.len(), 2, "{text:?}\n{written}");
        assert!(
            back.iter().all(|document| document.root == tree),
            "{text:?}\n{written}"
        );
    }
}

#[test]
fn collections_are_written_in_blocks() {
    let text = "a: {b: [1, {c: d, e: []}, [x, y]], f: {}}\ng: |\n  one\n  two\nh: [[]]\n";
    assert_eq!(
        again(text),
        "a:\n  b:\n  - 1\n  - c: d\n    e: []\n  - - x\n    - y\n  f: {}\ng: |\n  one\n  two\nh:\n- []\n"
    );
    assert_eq!(again(&again(text)), again(text));
}

#[test]
fn aliases_and_merges_become_what_they_stand_for() {
    let text = "x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\nz: {<<: [{c: 4}, *x]}\nt: *x\nq: {'<<': 1}";
    let tree = one(text);
    assert_eq!(tree.at(&["y", "b"]).unwrap().text(), Some("3"));
    assert_eq!(tree.at(&["y", "a"]).unwrap().text(), Some("1"));
    assert_eq!(tree.at(&["z", "c"]).unwrap().text(), Some("4"));
    assert_eq!(tree.at(&["t", "b"]).unwrap().text(), Some("2"));
    assert_eq!(tree.at(&["q", "<<"]).unwrap().text(), Some("1"));
}

#[test]
fn bombs_are_refused_before_they_go_off() {
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = format!("*a{}, ", level - 1).repeat(9);
        laughs += &format!("a{level}: &a{level} [{before}]\n");
    }
    let long = format!("a: &a {}\nb: [{}]", "x".repeat(100_000), "*a, ".repeat(2_000));
    let deep = format!("a: {}{}", "[".repeat(200), "]".repeat(200));
    let wide = format!("a: [{}]", "1,".repeat(500_000));
    for (bomb, said) in [
        (laughs, "aliases"),
        (long, "aliases"),
        (deep, ""),
        (wide, "too large"),
    ] {
        let error = read(&bomb).unwrap_err();
        assert!(error.message.contains(said), "{error}");
    }
    assert!(read(&" ".repeat(9 * 1024 * 1024)).is_err());
    assert!(read("a: &a [*a]").unwrap_err().message.contains("part of"));
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let place = |text: &str| {
        let error = read(text).unwrap_err();
        (error.line, error.column)
    };
    assert_eq!(place("a: 1\nb: 2\na: 3\n"), (3, 1));
    assert_eq!(place("a: 1\nb: !reset null\n").0, 2);
    assert_eq!(place("? [a]\n: b\n").0, 1);
    assert_eq!(place("a: *nobody\n").0, 1);
    assert_eq!(place("a: 'x\n").0, 1);
    assert_eq!(place("a: {<<: 1}\n").0, 1);
}

#[test]
fn streams_have_many_documents_and_the_empty_ones_are_none() {
    let found = read("# only a comment\n---\na: 1\n---\n---\n# nothing\n---\nb: 2\n...\n").unwrap();
    assert_eq!(
        found.iter().map(|document| document.line).collect::<Vec<_>>(),
        [3, 8]
    );
    assert!(read("").unwrap().is_empty());
    assert_eq!(read("{\"kind\": \"List\", \"items\": []}").unwrap().len(), 1);
}
