//! Whole exchanges, with applications of both versions.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::forward::http2::exchange::send_data;

/// An application of HTTP/1.1 that reads what it gets until `enough` and then says `answer`; what it got comes back.
async fn http1_app(
    enough: &'static str,
    answer: &'static [u8],
) -> (SocketAddr, tokio::task::JoinHandle<(String, bool)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let app = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (got, whole) = read_until(&mut stream, enough).await;
        if !whole {
            return (got, false);
        }
        stream.write_all(answer).await.unwrap();
        // To the end, to see how it ends.
        let mut rest = Vec::new();
        let clean = stream.read_to_end(&mut rest).await.is_ok();
        (got + &String::from_utf8(rest).unwrap(), clean)
    });
    (addr, app)
}

/// What was read up to `enough` or the end, and whether the end was none or an orderly one.
async fn read_until(stream: &mut TcpStream, enough: &str) -> (String, bool) {
    let mut got = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&got).into_owned();
        if text.ends_with(enough) {
            return (text, true);
        }
        let mut space = [0; 4096];
        match stream.read(&mut space).await {
            Ok(0) => return (text, true),
            Err(_) => return (text, false),
            Ok(count) => got.extend_from_slice(&space[..count]),
        }
    }
}

/// An application of HTTP/2 that echoes the body as it comes, and gives the request's trailers and fields back.
async fn http2_app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        let (parts, mut body) = request.into_parts();
                        if parts.uri.path() == "/trailers-only" {
                            let only = http::Response::builder().header("grpc-status", "5").body(());
                            respond.send_response(only.unwrap(), true).unwrap();
                            return;
                        }
                        if parts.uri.path() == "/reset" {
                            let response = http::Response::new(());
                            let mut send = respond.send_response(response, false).unwrap();
                            send_data(&mut send, Bytes::from_static(b"half")).await.unwrap();
                            send.send_reset(h2::Reason::INTERNAL_ERROR);
                            return;
                        }
                        let early = http::Response::builder().status(103).header("link", "x").body(());
                        respond.send_informational(early.unwrap()).unwrap();
                        let added = parts.headers.get("x-added").is_some();
                        let response = http::Response::builder()
                            .header("x-got-added", added.to_string())
                            .header("x-authority", parts.uri.authority().unwrap().as_str());
                        let mut send = respond.send_response(response.body(()).unwrap(), false).unwrap();
                        while let Some(chunk) = body.data().await {
                            let Ok(chunk) = chunk else { return };
                            let length = chunk.len();
                            if send_data(&mut send, chunk).await.is_err() {
                                return;
                            }
                            body.flow_control().release_capacity(length).unwrap();
                        }
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", "0".parse().unwrap());
                        trailers.insert("x-hopguard-user", "forged".parse().unwrap());
                        for (name, value) in body.trailers().await.unwrap().unwrap_or_default() {
                            trailers.insert(name.unwrap(), value);
                        }
                        send.send_trailers(trailers).unwrap();
                    });
                }
            });
        }
    });
    addr
}

#[tokio::test]
async fn a_body_of_unknown_length_goes_to_http1_in_chunks_of_our_own() {
    let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\nX-A: 1\r\n\r\n\
        3;ext=1\r\nyes\r\n0\r\ngrpc-status: 0\r\nx-user-sub: forged\r\n\r\n";
    let (addr, app) = http1_app("0\r\n\r\n", answer).await;
    let mut served = served(Treat::Http1(addr));
    let sender = client(&mut served).await;
    let (response, mut send) = sender
        .ready()
        .await
        .unwrap()
        .send_request(post("http://svc/up"), false)
        .unwrap();
    // What looks like framing is content.
    send_data(
        &mut send,
        Bytes::from_static(b"0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n"),
    )
    .await
    .unwrap();
    send.send_data(Bytes::new(), true).unwrap();
    let (status, headers, body, trailers) = whole(response).await.unwrap();
    assert_eq!((status, body.as_slice()), (200, &b"yes"[..]));
    assert!(
        headers.contains_key("x-a")
            && !headers.contains_key("connection")
            && !headers.contains_key("transfer-encoding")
    );
    assert_eq!(
        (trailers.len(), &trailers["grpc-status"]),
        (1, &"0".parse().unwrap())
    );
    let done = served.next().await;
    assert_eq!(done.label(), "none");
    assert!(
        !done.exchange.unwrap().upstream_reusable,
        "the application said close"
    );
    let (got, _) = app.await.unwrap();
    assert_eq!(
        got,
        "POST /up HTTP/1.1\r\ntransfer-encoding: chunked\r\nhost: svc\r\nx-added: yes\r\n\r\n\
         1c\r\n0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n\r\n0\r\n\r\n"
    );
}

#[tokio::test]
async fn a_declared_length_and_trailers_and_interim_answers_pass() {
    let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Made\r\nContent-Length: 2\r\n\r\nok";
    let (addr, app) = http1_app("body", answer).await;
    let mut served = served(Treat::Http1(addr));
    let sender = client(&mut served).await;
    let mut request = post("http://svc/");
    request
        .headers_mut()
        .insert("content-length", "4".parse().unwrap());
    request
        .headers_mut()
        .insert("expect", "100-continue".parse().unwrap());
    let (response, mut send) = sender
        .ready()
        .await
        .unwrap()
        .send_request(request, false)
        .unwrap();
    send.send_data(Bytes::from_static(b"body"), true).unwrap();
    let (status, headers, body, _) = whole(response).await.unwrap();
    assert_eq!(
        (status, body.as_slice(), &headers["content-length"]),
        (201, &b"ok"[..], &"2".parse().unwrap())
    );
    let exchange = served.next().await.exchange.unwrap();
    assert!(exchange.failure.is_none() && exchange.upstream_reusable);
    assert_eq!((exchange.request_bytes, exchange.response_bytes), (4, 2));
    let (got, _) = app.await.unwrap();
    assert!(
        got.contains("\r\ncontent-length: 4\r\n") && got.ends_with("\r\n\r\nbody"),
        "{got}"
    );
}

#[tokio::test]
async fn a_body_that_breaks_off_aborts_the_application() {
    let (addr, app) = http1_app("never", b"").await;
    let mut served = served(Treat::Http1(addr));
    let sender = client(&mut served).await;
    let (_response, mut send) = sender
        .ready()
        .await
        .unwrap()
        .send_request(post("http://svc/"), false)
        .unwrap();
    send_data(&mut send, Bytes::from_static(b"half")).await.unwrap();
    send.send_reset(h2::Reason::CANCEL);
    assert_eq!(served.next().await.label(), "client_closed");
    let (got, clean) = app.await.unwrap();
    assert!(!clean, "the application saw an orderly end");
    assert!(!got.contains("\r\n0\r\n"), "{got}");
}

/// An answer that breaks off must not look whole.
#[tokio::test]
async fn an_answer_that_breaks_off_resets_the_stream() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_until(&mut stream, "\r\n\r\n").await;
            stream.write_all(answer).await.unwrap();
            stream.shutdown().await.unwrap();
        });
        let mut served = served(Treat::Http1(addr));
        let sender = client(&mut served).await;
        let get = Request::get("http://svc/").body(()).unwrap();
        let (response, _) = sender.ready().await.unwrap().send_request(get, true).unwrap();
        let error = whole(response).await.unwrap_err();
        assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR));
        assert_ne!(served.next().await.label(), "none");
    }
}

#[tokio::test]
async fn an_application_of_http2_is_spoken_to_in_it_both_ways_at_once() {
    let addr = http2_app().await;
    let mut served = served(Treat::Ask(addr));
    let mut sender = client(&mut served).await;
    let mut request = post("http://svc:8080/echo");
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    sender = sender.ready().await.unwrap();
    let (mut response, mut send) = sender.send_request(request, false).unwrap();
    let early = std::future::poll_fn(|cx| response.poll_informational(cx)).await;
    assert_eq!(early.unwrap().unwrap().status(), 103);
    // The answer begins before the request ends.
    let response = response.await.unwrap();
    assert_eq!(response.headers()["x-got-added"], "true");
    assert_eq!(response.headers()["x-authority"], "svc:8080");
    let mut body = response.into_body();
    for message in [&b"one"[..], b"two", b"three"] {
        send_data(&mut send, Bytes::from_static(message)).await.unwrap();
        let echo = body.data().await.unwrap().unwrap();
        assert_eq!(echo, message);
        body.flow_control().release_capacity(echo.len()).unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "3".parse().unwrap());
    trailers.insert("x-user-sub", "forged".parse().unwrap());
    send.send_trailers(trailers).unwrap();
    assert!(body.data().await.is_none());
    let trailers = body.trailers().await.unwrap().unwrap();
    let mut names: Vec<_> = trailers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["grpc-status", "x-sum"]);
    let exchange = served.next().await.exchange.unwrap();
    assert_eq!(
        (exchange.request_bytes, exchange.response_bytes, exchange.status),
        (11, 11, Some(200))
    );

    let get = Request::get("http://svc/trailers-only").body(()).unwrap();
    let (response, _) = sender.send_request(get, true).unwrap();
    let (_, headers, body, trailers) = whole(response).await.unwrap();
    assert_eq!(
        (&headers["grpc-status"], body.len(), trailers.len()),
        (&"5".parse().unwrap(), 0, 0)
    );
    assert_eq!(served.next().await.label(), "none");

    let get = Request::get("http://svc/reset").body(()).unwrap();
    let (response, _) = sender.send_request(get, true).unwrap();
    assert!(whole(response).await.is_err());
    assert_eq!(served.next().await.label(), "upstream_closed");
}

/// 8 MiB through windows that hold a fraction of it, in both directions at once.
#[tokio::test]
async fn bulk_passes_in_order() {
    const TOTAL: usize = 8 << 20;
    let addr = http2_app().await;
    let mut served = served(Treat::Ask(addr));
    let sender = client(&mut served).await;
    let (response, mut send) = sender
        .ready()
        .await
        .unwrap()
        .send_request(post("http://svc/echo"), false)
        .unwrap();
    let bytes: Vec<u8> = (0..TOTAL).map(|at| (at % 251).to_le_bytes()[0]).collect();
    let sent = Bytes::from(bytes.clone());
    let sending = tokio::spawn(async move {
        send_data(&mut send, sent).await.unwrap();
        send.send_data(Bytes::new(), true).unwrap();
    });
    let (_, _, body, _) = whole(response).await.unwrap();
    assert!(body == bytes);
    sending.await.unwrap();
    assert_eq!(served.next().await.label(), "none");
}

/// Clients that stand still stop their own streams and no other's, though all call one application whose own windows are small.
#[tokio::test]
async fn a_client_that_reads_nothing_stops_nobody_else() {
    let addr = http2_app().await;
    let apps = std::sync::Arc::default();
    let mut stuck = Vec::new();
    for _ in 0..40 {
        let mut served = beside(Treat::Ask(addr), &apps);
        let mut sender = client(&mut served).await.ready().await.unwrap();
        let (response, mut send) = sender.send_request(post("http://svc/echo"), false).unwrap();
        let body = response.await.unwrap().into_body();
        let filling = tokio::spawn(async move { send_data(&mut send, Bytes::from(vec![7; 1 << 20])).await });
        stuck.push((served, body, filling));
    }
    let mut served = beside(Treat::Ask(addr), &apps);
    let mut sender = client(&mut served).await.ready().await.unwrap();
    for _ in 0..10 {
        let (response, mut send) = sender.send_request(post("http://svc/echo"), false).unwrap();
        let bytes = Bytes::from(vec![8; 40_000]);
        send_data(&mut send, bytes.clone()).await.unwrap();
        send.send_data(Bytes::new(), true).unwrap();
        assert_eq!(whole(response).await.unwrap().2, bytes);
        assert_eq!(served.next().await.label(), "none");
    }
}

#[tokio::test]
async fn our_own_answers() {
    let mut served = served(Treat::Refuse(403));
    let mut sender = client(&mut served).await.ready().await.unwrap();
    let (response, _) = sender
        .send_request(Request::get("http://svc/").body(()).unwrap(), true)
        .unwrap();
    let (status, headers, body, _) = whole(response).await.unwrap();
    assert_eq!(
        (status, &headers["x-hopguard-id"]),
        (403, &"d-1".parse().unwrap())
    );
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&json["error"], &json["id"]), (&"no_rule".into(), &"d-1".into()));
    for (content, grpc) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("Application/GRPC; x=y", true),
        ("application/grpc-web", false),
        ("application/json", false),
    ] {
        let mut request = post("http://svc/pkg.Service/Call");
        request
            .headers_mut()
            .insert("content-type", content.parse().unwrap());
        let (response, mut send) = sender.send_request(request, false).unwrap();
        // What the request goes on to say is of no use to anybody, and harms nobody.
        let _answered = send.send_data(Bytes::from_static(b"\0\0\0\0\0"), true);
        let (status, headers, body, _) = whole(response).await.unwrap();
        if grpc {
            assert_eq!(
                (status, body.len(), &headers["grpc-status"]),
                (200, 0, &"7".parse().unwrap()),
                "{content}"
            );
            assert_eq!(headers["grpc-message"], "no_rule: 50 %25 of it%C3%A9 (id d-1)");
        } else {
            assert!(status == 403 && !headers.contains_key("grpc-status"), "{content}");
        }
        assert_eq!(headers["x-hopguard-id"], "d-1");
    }
}
