//! A gRPC application and its client, as any is written: they know nothing of the mesh.
//!
//! `hopguard-grpc serve PORT` answers `echo.Echo` on all addresses.
//! `hopguard-grpc say URL WORDS TOKEN...` asks once for each token (`-`: none), all at once on one connection, and writes one line
//! for each, in order. `hopguard-grpc chat URL TOKEN...` opens one call for each token on one connection, keeps talking in all,
//! and writes a line when a call has its first echo, when it ends, and now and then how often all were echoed.
//! `hopguard-grpc repeat URL SECONDS TOKEN` asks again and again on one channel, and writes how often it was answered, and how
//! not.
//! `hopguard-grpc join URL COUNT TOKEN` streams COUNT words and gets all of them in one answer.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};

mod pb {
    #![expect(clippy::allow_attributes, reason = "generated code")]

    tonic::include_proto!("echo");
}

use pb::Word;
use pb::echo_client::EchoClient;
use pb::echo_server::{Echo, EchoServer};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let done = runtime.block_on(async {
        match words.as_slice() {
            ["serve", port] => serve(port).await,
            ["say", url, text, tokens @ ..] => say(url, text, tokens).await,
            ["chat", url, tokens @ ..] => chat(url, tokens).await,
            ["repeat", url, seconds, token] => repeat(url, seconds, token).await,
            ["join", url, count, token] => join(url, count, token).await,
            _ => Err("usage: hopguard-grpc serve PORT | say URL WORDS TOKEN... | chat URL TOKEN... | repeat URL SECONDS TOKEN | join URL COUNT TOKEN".into()),
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _closed = writeln!(std::io::stderr(), "hopguard-grpc: {error}");
            ExitCode::FAILURE
        }
    }
}

fn tell(line: &Value) {
    let mut out = std::io::stdout();
    let _closed = writeln!(out, "{line}").and_then(|()| out.flush());
}

struct Answering;

#[tonic::async_trait]
impl Echo for Answering {
    /// What the application sees of who asked.
    async fn say(&self, request: Request<Word>) -> Result<Response<Word>, Status> {
        let seen: serde_json::Map<String, Value> = request
            .metadata()
            .clone()
            .into_headers()
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
            .collect();
        let text = request.into_inner().text;
        if text == "fail" {
            return Err(Status::failed_precondition("as it was asked"));
        }
        let text = json!({"text": text, "metadata": seen}).to_string();
        Ok(Response::new(Word { text }))
    }

    type ChatStream = ReceiverStream<Result<Word, Status>>;

    async fn chat(&self, request: Request<Streaming<Word>>) -> Result<Response<Self::ChatStream>, Status> {
        let (echo, echoed) = mpsc::channel(1);
        let mut words = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(word)) = words.message().await {
                if echo.send(Ok(word)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(echoed)))
    }

    async fn join(&self, request: Request<Streaming<Word>>) -> Result<Response<Word>, Status> {
        let mut words = request.into_inner();
        let mut text = String::new();
        while let Some(word) = words.message().await? {
            text.push_str(&word.text);
        }
        Ok(Response::new(Word { text }))
    }
}

async fn serve(port: &str) -> Result<(), Failure> {
    let listening = format!("[::]:{port}").parse()?;
    Server::builder()
        .add_service(EchoServer::new(Answering).max_decoding_message_size(64 << 20))
        .serve(listening)
        .await?;
    Ok(())
}

async fn client(url: &str) -> Result<EchoClient<Channel>, Failure> {
    let channel = Channel::from_shared(url.to_owned())?.connect().await?;
    Ok(EchoClient::new(channel).max_decoding_message_size(64 << 20))
}

fn with_token<T>(message: T, token: &str) -> Result<Request<T>, Failure> {
    let mut request = Request::new(message);
    if token != "-" {
        let value = format!("Bearer {token}").parse()?;
        request.metadata_mut().insert("authorization", value);
    }
    // What no client may say of itself.
    request
        .metadata_mut()
        .insert("x-hopguard-user", "forged".parse()?);
    Ok(request)
}

fn told(answer: Result<Word, Status>) -> Value {
    match answer {
        Ok(word) => json!({
            "code": 0,
            "text": serde_json::from_str(&word.text).unwrap_or(Value::String(word.text)),
        }),
        Err(status) => {
            let id = status.metadata().get("x-hopguard-id");
            let id = id.and_then(|id| id.to_str().ok());
            json!({"code": i32::from(status.code()), "message": status.message(), "id": id})
        }
    }
}

async fn say(url: &str, text: &str, tokens: &[&str]) -> Result<(), Failure> {
    let client = client(url).await?;
    let mut asked = Vec::new();
    for token in tokens {
        let request = with_token(
            Word {
                text: text.to_owned(),
            },
            token,
        )?;
        let mut client = client.clone();
        asked.push(tokio::spawn(async move { client.say(request).await }));
    }
    for answer in asked {
        let answer = tokio::time::timeout(PATIENCE, answer).await??;
        tell(&told(answer.map(Response::into_inner)));
    }
    Ok(())
}

async fn repeat(url: &str, seconds: &str, token: &str) -> Result<(), Failure> {
    let mut client = client(url).await?;
    let until = tokio::time::Instant::now() + Duration::from_secs(seconds.parse()?);
    let (mut answered, mut failed) = (0_u64, Vec::new());
    while tokio::time::Instant::now() < until {
        let request = with_token(Word { text: "again".into() }, token)?;
        match tokio::time::timeout(PATIENCE, client.say(request)).await? {
            Ok(_) => answered += 1,
            Err(status) => failed.push(told(Err(status))),
        }
    }
    tell(&json!({"answered": answered, "failed": failed}));
    Ok(())
}

async fn join(url: &str, count: &str, token: &str) -> Result<(), Failure> {
    let count: usize = count.parse()?;
    let words = tokio_stream::iter((0..count).map(|_| Word {
        text: "a".repeat(1000),
    }));
    let mut client = client(url).await?;
    let joined = tokio::time::timeout(PATIENCE, client.join(with_token(words, token)?)).await?;
    tell(&match joined {
        Ok(word) => json!({"code": 0, "length": word.into_inner().text.len()}),
        Err(status) => told(Err(status)),
    });
    Ok(())
}

async fn chat(url: &str, tokens: &[&str]) -> Result<(), Failure> {
    let client = client(url).await?;
    let mut calls = tokio::task::JoinSet::new();
    for (call, token) in tokens.iter().enumerate() {
        let (say, said) = mpsc::channel(1);
        let request = with_token(ReceiverStream::new(said), token)?;
        let mut client = client.clone();
        calls.spawn(async move {
            let ended = talk(&mut client, request, (call, say)).await;
            let mut end = told(Err(ended));
            end["call"] = call.into();
            end["ended"] = true.into();
            tell(&end);
        });
    }
    while calls.join_next().await.is_some() {}
    Ok(())
}

/// Says a word, waits for its echo, and says the next.
async fn talk(
    client: &mut EchoClient<Channel>,
    request: Request<ReceiverStream<Word>>,
    (call, say): (usize, mpsc::Sender<Word>),
) -> Status {
    let mut words = match client.chat(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return status,
    };
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    for echoed in 0_u64.. {
        pace.tick().await;
        if say
            .send(Word {
                text: echoed.to_string(),
            })
            .await
            .is_err()
        {
            return words.message().await.err().unwrap_or_else(|| Status::ok("ended"));
        }
        match words.message().await {
            Ok(Some(word)) if word.text == echoed.to_string() => {}
            Ok(Some(word)) => return Status::data_loss(word.text),
            Ok(None) => return Status::ok("ended"),
            Err(status) => return status,
        }
        tell(&json!({"call": call, "echoed": echoed}));
    }
    Status::ok("ended")
}
