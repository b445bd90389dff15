//! Both ends of the administration socket. Bounded: one line of some KiB a connection, a deadline to write it in, and a
//! number of connections.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::geteuid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;

use super::{AdminError, Operator, Refused, Request, Said};
use crate::workload::{Bound, Socket};

/// A request is a line of some hundred bytes; an entries file, of 16 MiB at the most, may come with it.
const MAX_REQUEST: u64 = 40 << 20;
const MAX_ANSWER: u64 = 64 << 20;
/// A client that has not written its request by then is cut, and so is one that does not read.
const PATIENCE: Duration = Duration::from_secs(10);
const CONNECTIONS: usize = 16;

/// The socket, made and listening.
#[derive(Debug)]
pub struct AdminSocket(Bound);

impl AdminSocket {
    /// Makes it, mode 0600. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn bind(path: &Path) -> Result<Self, AdminError> {
        let socket = Socket {
            name: "admin".into(),
            path: path.to_owned(),
            mode: 0o600,
        };
        Ok(Self(Bound::new(&socket)?))
    }
}

/// Answers until `closing`.
pub async fn serve(socket: AdminSocket, operator: Arc<dyn Operator>, mut closing: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let stream = tokio::select! {
            _ = closing.wait_for(|closing| *closing) => return,
            stream = socket.0.next() => stream,
        };
        // Root and we ourselves, told by the kernel; the mode of the socket says the same.
        let uid = match stream.peer_cred() {
            Ok(peer) if peer.uid() == geteuid().as_raw() || peer.uid() == 0 => peer.uid(),
            Ok(peer) => {
                tracing::warn!(
                    uid = peer.uid(),
                    "refused on the administration socket: another user"
                );
                continue;
            }
            Err(_) => continue,
        };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            tracing::warn!(uid, "refused on the administration socket: too many connections");
            continue;
        };
        let (operator, mut closing) = (operator.clone(), closing.clone());
        tokio::spawn(async move {
            tokio::select! {
                _ = closing.wait_for(|closing| *closing) => {}
                _gone = answer(stream, operator.as_ref(), uid) => {}
            }
            drop(permit);
        });
    }
}

async fn answer(stream: UnixStream, operator: &dyn Operator, uid: u32) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(MAX_REQUEST));
    timeout(PATIENCE, reader.read_line(&mut line)).await??;
    let request: Request = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(error) => {
            let hint = "is the command line of another version than the authority?";
            let refused = Refused::new(format!("the request is not understood: {error}"), hint);
            return say(&mut writer, &Said::Refused(refused)).await;
        }
    };
    let (progress, mut steps) = mpsc::channel(16);
    let mut work = operator.operate(request, uid, progress);
    let end = loop {
        tokio::select! {
            biased;
            Some(step) = steps.recv() => say(&mut writer, &Said::Progress(step)).await?,
            end = &mut work => break end,
        }
    };
    // What was told before the end is said before it.
    while let Ok(step) = steps.try_recv() {
        say(&mut writer, &Said::Progress(step)).await?;
    }
    let end = end.map_or_else(Said::Refused, Said::Done);
    say(&mut writer, &end).await
}

async fn say(writer: &mut (impl AsyncWriteExt + Unpin), said: &Said) -> io::Result<()> {
    let mut line = serde_json::to_vec(said)?;
    line.push(b'\n');
    timeout(PATIENCE, writer.write_all(&line)).await?
}

/// Asks the authority behind a socket; `progress` gets what it tells on the way. Without `patience` the wait has no end.
///
/// # Errors
/// [`AdminError`].
pub async fn ask(
    path: &Path,
    request: &Request,
    patience: Option<Duration>,
    mut progress: impl FnMut(&Value),
) -> Result<Value, AdminError> {
    let unreachable = |source| AdminError::Unreachable {
        path: path.to_owned(),
        source,
    };
    let talk = async {
        let mut stream = UnixStream::connect(path).await.map_err(unreachable)?;
        let mut line = serde_json::to_vec(request).map_err(|error| unreachable(error.into()))?;
        line.push(b'\n');
        stream.write_all(&line).await.map_err(unreachable)?;
        let mut lines = BufReader::new(stream.take(MAX_ANSWER)).lines();
        while let Some(line) = lines.next_line().await.map_err(unreachable)? {
            match serde_json::from_str(&line) {
                Ok(Said::Progress(step)) => progress(&step),
                Ok(Said::Done(value)) => return Ok(value),
                Ok(Said::Refused(refused)) => return Err(refused.into()),
                Err(_) => return Err(AdminError::Strange(path.to_owned())),
            }
        }
        let hung_up = io::Error::new(io::ErrorKind::PermissionDenied, "it hung up without an answer");
        Err(unreachable(hung_up))
    };
    match patience {
        None => talk.await,
        Some(patience) => timeout(patience, talk)
            .await
            .unwrap_or_else(|_| Err(unreachable(io::ErrorKind::TimedOut.into()))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, Progress};
    use super::*;

    struct Echo;

    impl Operator for Echo {
        fn operate(&self, request: Request, uid: u32, progress: Progress) -> Answer<'_> {
            Box::pin(async move {
                let _client_gone = progress.send("half".into()).await;
                match request {
                    Request::Status => Ok(serde_json::json!({ "uid": uid })),
                    _ => Err(Refused::new("no", "")),
                }
            })
        }
    }

    #[tokio::test]
    async fn a_request_gets_its_progress_and_its_answer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let (close, closing) = watch::channel(false);
        let server = tokio::spawn(serve(AdminSocket::bind(&path).unwrap(), Arc::new(Echo), closing));
        let mut steps = Vec::new();
        let answer = ask(&path, &Request::Status, Some(PATIENCE), |step| {
            steps.push(step.clone())
        })
        .await;
        assert_eq!(answer.unwrap(), serde_json::json!({"uid": geteuid().as_raw()}));
        assert_eq!(steps, ["half"]);

        let mut raw = UnixStream::connect(&path).await.unwrap();
        raw.write_all(b"{\"verb\":\"steal\"}\n").await.unwrap();
        let mut said = String::new();
        raw.read_to_string(&mut said).await.unwrap();
        assert!(
            said.contains("refused") && said.contains("not understood"),
            "{said}"
        );

        close.send(true).unwrap();
        server.await.unwrap();
        assert!(!path.exists());
        let gone = ask(&path, &Request::Status, Some(PATIENCE), |_| ()).await;
        assert!(matches!(gone, Err(AdminError::Unreachable { .. })), "{gone:?}");
    }
}
