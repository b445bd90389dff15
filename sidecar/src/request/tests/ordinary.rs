//! Requests of every day, which must pass unchanged: what a careless strictness breaks first.

use super::{forwarded, read};

/// Goes in, and comes out byte for byte.
const UNCHANGED: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: svc:8080\r\nuser-agent: curl/8.5.0\r\naccept: */*\r\n\r\n",
    "GET / HTTP/1.1\r\nHOST: SVC.Shop.\r\n\r\n",
    "GET /index.html HTTP/1.0\r\nHost: svc\r\n\r\n",
    "GET /index.html HTTP/1.0\r\nUser-Agent: ApacheBench/2.3\r\n\r\n",
    "HEAD /a HTTP/1.1\r\nHost: svc\r\n\r\n",
    "OPTIONS /a HTTP/1.1\r\nHost: svc\r\nOrigin: https://x.example\r\nAccess-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: authorization,x-a\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: svc\r\n\r\n",
    "DELETE /orders/1 HTTP/1.1\r\nHost: svc\r\nIf-Match: \"abc\"\r\n\r\n",
    "PROPFIND /dav/ HTTP/1.1\r\nHost: svc\r\nDepth: 1\r\n\r\n",
    "REPORT /dav/x HTTP/1.1\r\nHost: svc\r\n\r\n",
    "PURGE /cache HTTP/1.1\r\nHost: svc\r\n\r\n",
    "QUERY /contacts HTTP/1.1\r\nHost: svc\r\ncontent-length: 5\r\n\r\n",
    "POST /orders HTTP/1.1\r\nHost: svc\r\nContent-Type: application/json\r\ncontent-length: 17\r\n\r\n",
    "POST /orders HTTP/1.1\r\nHost: svc\r\ncontent-length: 0\r\n\r\n",
    "POST /upload HTTP/1.1\r\nHost: svc\r\ntransfer-encoding: chunked\r\nTrailer: X-Checksum\r\n\r\n",
    "POST /upload HTTP/1.1\r\nHost: svc\r\nContent-Type: multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxk\r\ncontent-length: 1048576\r\n\r\n",
    "PUT /big HTTP/1.1\r\nHost: svc\r\nExpect: 100-continue\r\ncontent-length: 5368709120\r\n\r\n",
    "GET /search?q=a+b&page=2&sort=-date HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /search?q=%E4%BD%A0%E5%A5%BD HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /search?q=caf\u{e9} HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /search?q=100% HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /search?filter[name]=x&filter[]=y HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /search?redirect=https%3A%2F%2Fexample.com%2F..%2Fa HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /search?url=http://example.com//a/../b HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /search?a=1;b=2 HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /search?json={\"a\":[1,2]} HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /search?win=C:\\dir HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /search?twice=%2525&nul=%00 HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /?? HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /files/My%20Report%20(final).pdf HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /files/%D0%9F%D1%80%D0%B8%D0%B2%D0%B5%D1%82.txt HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /wiki/%E6%97%A5%E6%9C%AC%E8%AA%9E%EF%BC%9F HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /wiki/Wait%E2%80%A6 HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /emoji/%F0%9F%8D%BA HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /r%C3%A9sum%C3%A9 HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /sale/50%25 HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /sale/50%25-off HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /~alice/.profile HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /.well-known/openid-configuration HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /a/..b/c../d...e/.../f HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /v1.2/file.tar.gz HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /Packages(Id='Newtonsoft.Json',Version='13.0.1') HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /users/alice@example.com HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /time/12:30:00 HTTP/1.1\r\nHost: svc\r\n\r\n",
    "POST /v1/projects/p:batchGet HTTP/1.1\r\nHost: svc\r\ncontent-length: 2\r\n\r\n",
    "GET /spiffe%3A%2D%2Dx HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /@scope/pkg/-/pkg-1.0.0.tgz HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /a+b&c=d,e!f$g*h HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /items/{id}/[0]/a|b^c HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /dir/ HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /a%3Bb HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET /a%3Fb%23c HTTP/1.1\r\nHost: svc\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: 10.77.0.12:8080\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: [fd77::12]:8080\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: orders.shop.svc.cluster.local\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: my_app_1:3000\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: svc\r\nCookie: a=1; b=\"2\"; c=%7B%22x%22%3A1%7D\r\nCookie: d=4\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: svc\r\nAuthorization: Bearer eyJhbGciOiJFUzI1NiJ9.e30.c2ln\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: svc\r\nAuthorization: AWS4-HMAC-SHA256 Credential=AKIA/20260101/eu/s3/aws4_request, SignedHeaders=host;range, Signature=ab\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: svc\r\nX-Empty:\u{20}\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: svc\r\nAccept: text/html,application/xhtml+xml,*/*;q=0.8\r\nAccept-Language: de-DE,de;q=0.9\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nSec-Fetch-Mode: navigate\r\nSec-CH-UA: \"Chromium\";v=\"130\"\r\nDNT: 1\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: svc\r\nRange: bytes=0-99,200-\r\nIf-Modified-Since: Sat, 29 Oct 1994 19:43:31 GMT\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: svc\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\ntracestate: a=b,c=d\r\nbaggage: k=v\r\nx-request-id: 1\r\nX-B3-TraceId: 80f198ee56343ba8\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: svc\r\nx_custom_thing: 1\r\nX-Amz-Date: 20260101T000000Z\r\nx-api-key: k\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: svc\r\nX-Odd!#$%&'*+.^_`|~Name: v\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: svc\r\nX-Json: {\"a\": [1, \"\u{fc}\"]}\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: svc\r\nVia: 1.1 gw\r\nX-Correlation-ID: a b\tc\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: svc\r\nX-A: 1\r\nX-A: 1\r\nx-a: 2\r\n\r\n",
    "GET /events HTTP/1.1\r\nHost: svc\r\nAccept: text/event-stream\r\nLast-Event-ID: 7\r\nCache-Control: no-store\r\n\r\n",
    "POST /rpc HTTP/1.1\r\nHost: svc\r\nContent-Type: application/grpc-web+proto\r\nX-Grpc-Web: 1\r\ncontent-length: 5\r\n\r\n",
    "POST /t HTTP/1.1\r\nHost: svc\r\ncontent-length: 1\r\nconnection: te\r\nte: trailers\r\n\r\n",
    "GET /ws HTTP/1.1\r\nHost: svc\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: a, b\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
];

#[test]
fn ordinary_requests_pass_unchanged() {
    assert!(UNCHANGED.len() >= 60, "{}", UNCHANGED.len());
    for text in UNCHANGED {
        let head = read(text).unwrap_or_else(|refusal| panic!("{refusal:?}\n{text}"));
        assert_eq!(forwarded(&head, &[]), *text);
        assert_eq!(head.len, text.len());
    }
}

/// Every prefix of a head is incomplete: neither an early refusal nor an early answer.
#[test]
fn a_head_is_read_only_when_it_is_whole() {
    let limits = crate::request::Limits::default();
    for text in UNCHANGED
        .iter()
        .map(|text| format!("\r\n{text}"))
        .chain(UNCHANGED.iter().map(ToString::to_string))
    {
        for cut in 0..text.len() {
            let prefix = &text.as_bytes()[..cut];
            assert!(
                matches!(crate::request::parse_head(prefix, &limits), Ok(None)),
                "{cut} bytes of {text:?}"
            );
        }
        let longer = format!("{text}GET /next HTTP/1.1\r\n");
        assert_eq!(read(longer).unwrap().len, text.len());
    }
}
