//! Answers in HTTP/1.1 as a client reads them: received bytes enter, whole answers leave. It reads what a good server sends, and
//! stops at anything else.

/// One answer, its interim answers before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The statuses of the interim answers.
    pub interim: Vec<u16>,
    /// The final status.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body, without chunks.
    pub body: Vec<u8>,
    /// Trailers.
    pub trailers: Vec<(String, String)>,
}

impl Answer {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        found.next().map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The whole answers at the beginning of `bytes` to requests of these methods. `over`: nothing more will come, so a body without
/// length is whole.
pub fn answers(bytes: &[u8], methods: &[String], over: bool) -> Vec<Answer> {
    let mut rest = bytes;
    let mut found = Vec::new();
    for method in methods {
        match answer(rest, method, over) {
            Some((answer, after)) => {
                rest = after;
                found.push(answer);
            }
            None => break,
        }
    }
    found
}

fn answer<'b>(bytes: &'b [u8], method: &str, over: bool) -> Option<(Answer, &'b [u8])> {
    let (mut answer, rest) = head(bytes)?;
    if matches!(answer.status, 100 | 102..=199) {
        let (mut last, rest) = self::answer(rest, method, over)?;
        last.interim.insert(0, answer.status);
        return Some((last, rest));
    }
    if method == "HEAD" || matches!(answer.status, 101 | 204 | 304) {
        return Some((answer, rest));
    }
    if answer.header("transfer-encoding").is_some() {
        let rest = chunks(rest, &mut answer)?;
        return Some((answer, rest));
    }
    let length = answer.header("content-length").and_then(|text| text.parse().ok());
    let (body, rest) = match length {
        Some(length) => rest.split_at_checked(length)?,
        None if over => (rest, &rest[rest.len()..]),
        None => return None,
    };
    answer.body = body.to_vec();
    Some((answer, rest))
}

fn head(bytes: &[u8]) -> Option<(Answer, &[u8])> {
    let (head, rest) = split(bytes, b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(head).into_owned();
    let (first, lines) = text.split_once("\r\n").unwrap_or((&text, ""));
    let status = first.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let answer = Answer {
        status,
        headers: lines.split("\r\n").filter_map(pair).collect(),
        ..Answer::default()
    };
    Some((answer, rest))
}

fn chunks<'b>(mut rest: &'b [u8], answer: &mut Answer) -> Option<&'b [u8]> {
    loop {
        let (size, after) = split(rest, b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
        if size == 0 {
            rest = after;
            break;
        }
        let (data, after) = after.split_at_checked(size)?;
        answer.body.extend_from_slice(data);
        rest = after.strip_prefix(b"\r\n")?;
    }
    loop {
        let (line, after) = split(rest, b"\r\n")?;
        rest = after;
        if line.is_empty() {
            return Some(rest);
        }
        answer.trailers.extend(pair(&String::from_utf8_lossy(line)));
    }
}

fn pair(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    Some((name.to_ascii_lowercase(), value.trim().to_owned()))
}

fn split<'b>(bytes: &'b [u8], at: &[u8]) -> Option<(&'b [u8], &'b [u8])> {
    let place = bytes.windows(at.len()).position(|window| window == at)?;
    Some((&bytes[..place], &bytes[place + at.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab\
            HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\ncd\r\n0\r\nx-sum: 2\r\n\r\nHTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\n\r\nef";
        let methods = ["POST", "GET", "GET", "GET"].map(str::to_owned);
        let found = answers(bytes, &methods, true);
        let told: Vec<_> = found
            .iter()
            .map(|a| (a.status, a.text(), a.interim.len()))
            .collect();
        let expected = [(200, "ab", 1), (200, "cd", 0), (204, "", 0), (200, "ef", 0)];
        assert_eq!(
            told,
            expected.map(|(status, body, interim)| (status, body.to_owned(), interim))
        );
        assert_eq!(found[1].trailers, [("x-sum".to_owned(), "2".to_owned())]);
        assert_eq!(answers(bytes, &methods, false).len(), 3);
    }
}
