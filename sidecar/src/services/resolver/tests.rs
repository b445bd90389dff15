use std::sync::atomic::{AtomicUsize, Ordering};

use spiffe::SpiffeId;

use super::super::{AppProtocol, Mode, Port, Protocol};
use super::*;

/// Answers that a test changes while the resolver runs.
#[derive(Default)]
struct Zone {
    answers: Mutex<BTreeMap<String, Result<Vec<IpAddr>, String>>>,
    asked: AtomicUsize,
    hanging: Mutex<BTreeSet<String>>,
}

impl Zone {
    fn set(&self, host: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        self.answers
            .lock()
            .unwrap()
            .insert(host.to_owned(), Ok(addresses));
    }

    fn fail(&self, host: &str) {
        self.answers
            .lock()
            .unwrap()
            .insert(host.to_owned(), Err("SERVFAIL".to_owned()));
    }

    fn lookup(self: &Arc<Self>) -> Lookup {
        let zone = Arc::clone(self);
        Arc::new(move |host| {
            let zone = Arc::clone(&zone);
            Box::pin(async move {
                zone.asked.fetch_add(1, Ordering::SeqCst);
                // Other tasks run in between, as with a real look-up.
                tokio::task::yield_now().await;
                if zone.hanging.lock().unwrap().contains(&host) {
                    std::future::pending::<()>().await;
                }
                let answer = zone.answers.lock().unwrap().get(&host).cloned();
                answer
                    .unwrap_or_else(|| Err("NXDOMAIN".to_owned()))
                    .map_err(io::Error::other)
            })
        })
    }
}

fn service(name: &str, hosts: &[&str]) -> Service {
    Service {
        name: name.into(),
        hosts: hosts.iter().map(ToString::to_string).collect(),
        addresses: vec![],
        spiffe_ids: [SpiffeId::new(format!("spiffe://mesh.local/{name}")).unwrap()].into(),
        ports: vec![Port {
            port: 80,
            protocol: Protocol::Http,
            mode: Mode::Strict,
            app: AppProtocol::Auto,
        }],
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn start(zone: &Arc<Zone>, services: Vec<Service>) -> Arc<Resolver> {
    let resolver = Resolver::with_lookup(services, ResolverOptions::default(), zone.lookup()).unwrap();
    tokio::spawn(Arc::clone(&resolver).run());
    resolver
}

#[tokio::test]
async fn the_system_resolves_and_what_is_loopback_is_refused() {
    // A literal goes through the system's `getaddrinfo` without asking any server.
    let services = vec![
        service("shop/a", &["192.0.2.7"]),
        service("shop/b", &["localhost"]),
    ];
    let resolver = Resolver::new(services, ResolverOptions::default()).unwrap();
    tokio::spawn(Arc::clone(&resolver).run());
    resolver.first_round().await;
    assert_eq!(
        &*resolver.table().find(at("192.0.2.7:80")).unwrap().service.name,
        "shop/a"
    );
    assert_eq!(resolver.table().find(at("127.0.0.1:80")), None);
    let problems = resolver.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].host.as_deref(), Some("localhost"));
}

#[tokio::test(start_paused = true)]
async fn a_new_answer_is_taken_at_the_next_round_and_told() {
    let zone = Arc::new(Zone::default());
    zone.set("a", &["10.0.0.1"]);
    let resolver = start(&zone, vec![service("shop/a", &["a"])]);
    resolver.first_round().await;
    assert!(resolver.table().find(at("10.0.0.1:80")).is_some());

    let mut changes = resolver.changes();
    changes.mark_unchanged();
    zone.set("a", &["10.0.0.2"]);
    changes.changed().await.unwrap();
    assert!(resolver.table().find(at("10.0.0.2:80")).is_some());
    assert!(resolver.table().find(at("10.0.0.1:80")).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_failed_look_up_keeps_the_old_answer_and_is_reported() {
    let zone = Arc::new(Zone::default());
    zone.set("a", &["10.0.0.1"]);
    zone.set("b", &["10.0.0.2"]);
    let resolver = start(&zone, vec![service("shop/a", &["a"]), service("shop/b", &["b"])]);
    resolver.first_round().await;
    zone.fail("a");
    zone.set("b", &["10.0.0.3"]);
    let mut changes = resolver.changes();
    changes.mark_unchanged();
    changes.changed().await.unwrap();
    assert!(resolver.table().find(at("10.0.0.1:80")).is_some());
    assert!(resolver.table().find(at("10.0.0.3:80")).is_some());
    let problems = resolver.problems();
    assert_eq!(problems[0].host.as_deref(), Some("a"));
    assert!(problems[0].message.contains("SERVFAIL"), "{problems:?}");

    zone.set("a", &["10.0.0.1"]);
    zone.set("b", &["10.0.0.4"]);
    changes.changed().await.unwrap();
    assert_eq!(resolver.problems(), []);
}

#[tokio::test(start_paused = true)]
async fn misses_share_one_round_and_a_miss_within_the_floor_causes_none() {
    let zone = Arc::new(Zone::default());
    zone.set("a", &["10.0.0.1"]);
    let resolver = start(&zone, vec![service("shop/a", &["a"])]);
    resolver.first_round().await;
    assert_eq!(zone.asked.load(Ordering::SeqCst), 1);

    tokio::time::advance(Duration::from_secs(2)).await;
    zone.set("a", &["10.0.0.2"]);
    let misses: Vec<_> = (0..50)
        .map(|_| {
            let resolver = Arc::clone(&resolver);
            tokio::spawn(async move { resolver.resolve_miss(at("10.0.0.2:80")).await })
        })
        .collect();
    for miss in misses {
        assert!(miss.await.unwrap());
    }
    assert_eq!(zone.asked.load(Ordering::SeqCst), 2);

    for _ in 0..50 {
        assert!(!resolver.resolve_miss(at("10.9.9.9:80")).await);
    }
    assert_eq!(zone.asked.load(Ordering::SeqCst), 2);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(!resolver.resolve_miss(at("10.9.9.9:80")).await);
    assert_eq!(zone.asked.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_conflicts_keeps_the_old_table_and_is_reported() {
    let zone = Arc::new(Zone::default());
    zone.set("a", &["10.0.0.1"]);
    zone.set("b", &["10.0.0.2"]);
    let resolver = start(&zone, vec![service("shop/a", &["a"]), service("shop/b", &["b"])]);
    resolver.first_round().await;
    zone.set("b", &["10.0.0.1"]);
    tokio::time::advance(Duration::from_secs(2)).await;
    resolver.resolve_miss(at("10.9.9.9:80")).await;
    assert_eq!(
        &*resolver.table().find(at("10.0.0.1:80")).unwrap().service.name,
        "shop/a"
    );
    assert!(resolver.table().find(at("10.0.0.2:80")).is_some());
    let problems = resolver.problems();
    assert!(problems[0].host.is_none());
    assert!(problems[0].message.contains("shop/a") && problems[0].message.contains("shop/b"));

    zone.set("b", &["10.0.0.3"]);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(resolver.resolve_miss(at("10.0.0.3:80")).await);
    assert_eq!(resolver.problems(), []);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_hangs_holds_up_neither_the_others_nor_a_second_look_up() {
    let zone = Arc::new(Zone::default());
    zone.set("a", &["10.0.0.1"]);
    zone.set("hangs", &["10.0.0.9"]);
    zone.hanging.lock().unwrap().insert("hangs".to_owned());
    let resolver = start(
        &zone,
        vec![service("shop/a", &["a"]), service("shop/h", &["hangs"])],
    );
    resolver.first_round().await;
    assert!(resolver.table().find(at("10.0.0.1:80")).is_some());
    assert!(
        resolver
            .problems()
            .iter()
            .any(|p| p.host.as_deref() == Some("hangs"))
    );
    assert_eq!(zone.asked.load(Ordering::SeqCst), 2);
    tokio::time::advance(Duration::from_secs(2)).await;
    resolver.resolve_miss(at("10.9.9.9:80")).await;
    assert_eq!(
        zone.asked.load(Ordering::SeqCst),
        3,
        "the hanging name is not asked for again"
    );
}

#[tokio::test(start_paused = true)]
async fn other_services_are_in_force_at_once_and_bad_ones_change_nothing() {
    let zone = Arc::new(Zone::default());
    zone.set("a", &["10.0.0.1"]);
    zone.set("b", &["10.0.0.2"]);
    let resolver = start(&zone, vec![service("shop/a", &["a"])]);
    resolver.first_round().await;

    let bad = vec![service("shop/a", &["a"]), service("shop/x", &["a"])];
    assert!(resolver.reconfigure(bad).is_err());
    assert!(resolver.table().by_name("shop/x").is_none());

    let mut changes = resolver.changes();
    resolver
        .reconfigure(vec![service("shop/a", &["a"]), service("shop/b", &["b"])])
        .unwrap();
    assert!(
        resolver.table().find(at("10.0.0.1:80")).is_some(),
        "the old answer is kept"
    );
    assert!(resolver.table().by_name("shop/b").is_some());
    while resolver.table().find(at("10.0.0.2:80")).is_none() {
        changes.changed().await.unwrap();
    }

    resolver.reconfigure(vec![service("shop/b", &["b"])]).unwrap();
    assert!(resolver.table().find(at("10.0.0.1:80")).is_none());
}

#[test]
fn too_many_addresses_are_cut_and_said_so() {
    let many = (0..300u32)
        .map(|n| IpAddr::V4((0x0a00_0000 + n).into()))
        .collect();
    let (kept, remark) = usable(many).unwrap();
    assert_eq!(kept.len(), MAX_ADDRESSES);
    assert!(remark.unwrap().contains("300"));
    assert!(usable(vec![]).is_err());
    assert!(usable(vec!["224.0.0.1".parse().unwrap(), "0.0.0.0".parse().unwrap()]).is_err());
}
