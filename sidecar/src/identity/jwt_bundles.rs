//! The JWT bundles of the Workload API: an endpoint enters, [`BundleNews`] leave for as long as the program runs. What a
//! bundle holds is not looked into here (`authn` does); this room only keeps the stream open and tells what came of it.

use std::collections::BTreeMap;
use std::time::Duration;

use spiffe::TrustDomain;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use super::IdentityError;
use super::backoff::dice;
use super::endpoint::Endpoint;
use super::proto::{JwtBundlesRequest, JwtBundlesResponse};
use super::workload_api::{FIRST_MESSAGE, Pace, SETTLED, asking, client, refused, unreachable};

/// More trust domains than this is no message.
const MAX_DOMAINS: usize = 1024;

/// What the Workload API says of JWT bundles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleNews {
    /// Every bundle that this workload may trust: the ID of its trust domain (`spiffe://` and its name) and its JWK Set.
    /// Those that are not among them are not trusted any more (Workload API 4.3).
    All(BTreeMap<String, Vec<u8>>),
    /// Nobody says anything at present, for this reason.
    Silent(String),
    /// This workload gets none, for this reason.
    Denied(String),
}

/// Keeps the JWT bundles current and reports what comes to `on`. Returns only when it can never succeed: the endpoint is not
/// one.
pub async fn watch_jwt_bundles(endpoint: String, on: impl FnMut(BundleNews) + Send) -> IdentityError {
    watch_at(endpoint, Pace::default(), on).await
}

async fn watch_at(name: String, mut pace: Pace, mut on: impl FnMut(BundleNews) + Send) -> IdentityError {
    let endpoint = match Endpoint::parse(&name) {
        Ok(endpoint) => endpoint,
        Err(error) => return error,
    };
    let mut said = None;
    loop {
        let began = Instant::now();
        let mut came = false;
        let ended = follow(&name, &endpoint, |bundles| {
            came = true;
            said = None;
            on(BundleNews::All(bundles));
        })
        .await;
        if came {
            pace.unavailable.reset();
            pace.denied.reset();
        }
        let (news, wait) = after(&ended, began.elapsed(), &mut pace);
        // The same is not said twice in a row.
        if said.as_ref() != Some(&news) {
            tracing::warn!(error = %ended, "no JWT bundles from the Workload API");
            on(news.clone());
            said = Some(news);
        }
        sleep(wait).await;
    }
}

/// One stream, from opening to its end.
async fn follow(
    name: &str,
    endpoint: &Endpoint,
    mut on: impl FnMut(BTreeMap<String, Vec<u8>>),
) -> IdentityError {
    let opening = async {
        let mut client = client(name, endpoint.clone()).await?;
        let answer = client.fetch_jwt_bundles(asking(JwtBundlesRequest {})).await;
        let mut stream = answer.map_err(|status| refused(name, &status))?.into_inner();
        let first = stream.message().await;
        Ok((stream, first))
    };
    let (mut stream, mut next) = match timeout(FIRST_MESSAGE, opening).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return error,
        Err(_) => {
            return IdentityError::Silent {
                endpoint: name.to_owned(),
                seconds: FIRST_MESSAGE.as_secs(),
            };
        }
    };
    loop {
        match next {
            Ok(Some(message)) => match checked(message) {
                Ok(bundles) => on(bundles),
                Err(error) => tracing::warn!(%error, "JWT bundles discarded"),
            },
            Ok(None) => return unreachable(name, "the stream of JWT bundles ended"),
            Err(status) => return refused(name, &status),
        }
        next = stream.message().await;
    }
}

/// The bundles of a message; one under a name that is no trust domain is left out.
pub(super) fn checked(message: JwtBundlesResponse) -> Result<BTreeMap<String, Vec<u8>>, IdentityError> {
    if message.bundles.is_empty() || message.bundles.len() > MAX_DOMAINS {
        let problem = format!("{} JWT bundles, not 1 to {MAX_DOMAINS}", message.bundles.len());
        return Err(IdentityError::BadMessage(problem));
    }
    let named = message.bundles.into_iter().filter(|(name, _)| {
        let fits = TrustDomain::new(name).is_ok_and(|domain| domain.id_string() == *name);
        if !fits {
            tracing::warn!(name, "JWT bundle ignored: its key is not spiffe://trust-domain");
        }
        fits
    });
    Ok(named.collect())
}

/// What the end of a stream means, and how long to wait before the next.
fn after(ended: &IdentityError, lived: Duration, pace: &mut Pace) -> (BundleNews, Duration) {
    let code = match ended {
        IdentityError::Refused { code, .. } => *code,
        _ => Code::Unavailable,
    };
    match code {
        Code::PermissionDenied => (BundleNews::Denied(ended.to_string()), pace.denied.next(dice())),
        Code::Unimplemented => (
            BundleNews::Silent(format!("{ended}: it hands out no JWT bundles")),
            pace.hopeless,
        ),
        Code::InvalidArgument => (BundleNews::Silent(ended.to_string()), pace.hopeless),
        _ if lived >= SETTLED => (BundleNews::Silent(ended.to_string()), Duration::ZERO),
        _ => (
            BundleNews::Silent(ended.to_string()),
            pace.unavailable.next(dice()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::identity::backoff::Backoff;
    use crate::identity::testing::{FakeApi, Script};

    fn hasty() -> Pace {
        let soon = Duration::from_millis(10);
        Pace {
            unavailable: Backoff::new(soon, soon),
            urgent: Backoff::new(soon, soon),
            denied: Backoff::new(soon, soon),
            hopeless: soon,
        }
    }

    struct Watched {
        news: mpsc::UnboundedReceiver<BundleNews>,
        task: tokio::task::JoinHandle<IdentityError>,
    }

    impl Watched {
        fn start(endpoint: String) -> Self {
            let (told, news) = mpsc::unbounded_channel();
            let on = move |one| drop(told.send(one));
            let task = tokio::spawn(watch_at(endpoint, hasty(), on));
            Self { news, task }
        }

        async fn next(&mut self) -> BundleNews {
            let next = timeout(Duration::from_secs(30), self.news.recv()).await;
            next.unwrap().unwrap()
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    fn all(bundles: &[(&str, &[u8])]) -> BundleNews {
        let owned = bundles
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()));
        BundleNews::All(owned.collect())
    }

    /// S-57, S-58.
    #[tokio::test]
    async fn each_message_is_the_whole_and_an_end_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let mut api = FakeApi::start(&path, vec![]);
        let mut watched = Watched::start(api.endpoint());
        let call = api.bundle_calls.recv().await.unwrap();
        let (own, other): (&[u8], &[u8]) = (b"{\"keys\":[]}", b"x");
        call.send(&[("spiffe://mesh.test", own), ("spiffe://other.test", other)])
            .await;
        let both = all(&[("spiffe://mesh.test", own), ("spiffe://other.test", other)]);
        assert_eq!(watched.next().await, both);
        // Names that are no trust domains are left out; an empty message is discarded.
        call.send(&[]).await;
        call.send(&[
            ("spiffe://mesh.test", own),
            ("mesh.test", own),
            ("spiffe://MESH.test", own),
        ])
        .await;
        assert_eq!(watched.next().await, all(&[("spiffe://mesh.test", own)]));

        drop(call);
        api.stop().await;
        let BundleNews::Silent(why) = watched.next().await else {
            panic!("not silent")
        };
        assert!(why.contains("api.sock"), "{why}");
        let mut api = FakeApi::start(&path, vec![]);
        let call = api.bundle_calls.recv().await.unwrap();
        call.send(&[("spiffe://mesh.test", other)]).await;
        loop {
            match watched.next().await {
                // The stream's end, and then the socket's absence.
                BundleNews::Silent(_) => {}
                news => {
                    assert_eq!(news, all(&[("spiffe://mesh.test", other)]));
                    break;
                }
            }
        }
        api.stop().await;
    }

    #[tokio::test]
    async fn an_api_without_bundles_says_so_and_one_that_denies_is_obeyed() {
        let dir = tempfile::tempdir().unwrap();
        let script = vec![
            Script::Fail(Code::Unimplemented),
            Script::Fail(Code::Unimplemented),
            Script::Fail(Code::PermissionDenied),
        ];
        let mut api = FakeApi::start(&dir.path().join("api.sock"), script);
        let mut watched = Watched::start(api.endpoint());
        let first = watched.next().await;
        assert!(
            matches!(&first, BundleNews::Silent(why) if why.contains("Unimplemented") && why.contains("no JWT bundles")),
            "{first:?}"
        );
        let second = watched.next().await;
        assert!(
            matches!(second, BundleNews::Denied(_)),
            "the same is told once: {second:?}"
        );
        let call = api.bundle_calls.recv().await.unwrap();
        call.send(&[("spiffe://mesh.test", b"x")]).await;
        assert_eq!(watched.next().await, all(&[("spiffe://mesh.test", b"x")]));
        api.stop().await;
    }

    #[tokio::test]
    async fn what_is_no_endpoint_is_told() {
        let never = |_| panic!("no news");
        let error = watch_jwt_bundles("http://x".to_owned(), never).await;
        assert!(matches!(error, IdentityError::Endpoint { .. }));
    }
}
