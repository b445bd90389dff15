use super::super::meters::RequestLabels;
use super::*;

fn value(text: &str, series: &str) -> Option<f64> {
    text.lines()
        .find_map(|line| line.strip_prefix(series))
        .map(|rest| rest.trim().parse().unwrap())
}

fn labels(method: &'static str, status: u16) -> RequestLabels {
    RequestLabels {
        method: method.into(),
        status,
        error: "".into(),
        route: "getOrder".into(),
        proven: Proven::WorkloadAndUser,
    }
}

#[test]
fn requests_are_counted_by_connection_meter_and_the_method_is_bounded() {
    let metrics = Metrics::new();
    metrics.set_known(KnownWorkloads::new(["spiffe://m/web".to_owned()]));
    let web = SpiffeId::new("spiffe://m/web").unwrap();
    let mut meter = metrics.requests(metrics.workload(Some(&web)), "spiffe://m/orders".into());
    meter.finished(&labels("GET", 200), Duration::from_millis(2));
    meter.finished(&labels("GET", 200), Duration::from_millis(2));
    meter.finished(&labels("GET", 403), Duration::from_millis(2));
    meter.finished(&labels("BREW-7f3a", 9999), Duration::from_millis(2));
    let text = metrics.encode();
    let series = |method: &str, status: &str| {
        format!(
            "http_server_request_duration_seconds_count{{http_request_method=\"{method}\",http_response_status_code=\"{status}\",\
             error_type=\"\",http_route=\"getOrder\",src_workload=\"spiffe://m/web\",dst_workload=\"spiffe://m/orders\",\
             identity_state=\"mtls+user\"}}"
        )
    };
    assert_eq!(value(&text, &series("GET", "200")), Some(2.0), "{text}");
    assert_eq!(value(&text, &series("GET", "403")), Some(1.0));
    assert_eq!(value(&text, &series("_OTHER", "other")), Some(1.0));
    assert!(!text.contains("BREW"));
}

#[test]
fn a_stranger_among_peers_is_other() {
    let metrics = Metrics::new();
    let stranger = SpiffeId::new("spiffe://evil.org/x").unwrap();
    assert_eq!(metrics.workload(Some(&stranger)).as_str(), "other");
    assert_eq!(metrics.workload(None).as_str(), "none");
}

#[test]
fn decisions_count_alike_through_the_meter_and_directly() {
    let metrics = Metrics::new();
    let labels = DecisionLabels {
        verdict: "deny",
        reason: "no_rule",
        rule: "".into(),
        direction: Direction::Inbound,
        proven: Proven::Workload,
    };
    let mut meter = metrics.requests("a".into(), "b".into());
    meter.decided(&labels);
    meter.decided(&labels);
    metrics.decided(&labels);
    let series = "hopguard_decisions_total{verdict=\"deny\",reason=\"no_rule\",rule_id=\"\",direction=\"inbound\",\
                  identity_state=\"mtls\"}";
    assert_eq!(value(&metrics.encode(), series), Some(3.0));
}

#[test]
fn a_connection_is_open_until_its_meter_is_dropped() {
    let metrics = Metrics::new();
    let one = metrics.connection(Direction::Outbound, "opaque", Proven::Workload);
    let two = metrics.connection(Direction::Outbound, "opaque", Proven::Workload);
    one.carried(10, 20);
    drop(two);
    let text = metrics.encode();
    let labels = "{direction=\"outbound\",protocol=\"opaque\",identity_state=\"mtls\"";
    assert_eq!(
        value(&text, &format!("hopguard_connections_open{labels}}}")),
        Some(1.0)
    );
    assert_eq!(
        value(&text, &format!("hopguard_connections_opened_total{labels}}}")),
        Some(2.0)
    );
    let bytes = |way: &str| {
        value(
            &text,
            &format!("hopguard_connections_bytes_total{labels},way=\"{way}\"}}"),
        )
    };
    assert_eq!(bytes("in"), Some(10.0));
    assert_eq!(bytes("out"), Some(20.0));
    drop(one);
    let text = metrics.encode();
    assert_eq!(
        value(&text, &format!("hopguard_connections_open{labels}}}")),
        Some(0.0)
    );
}

const PLAN: &[(&str, f64)] = &[
    (
        "hopguard_token_checks_total{issuer=\"unknown\",result=\"malformed\",cache_hit=\"false\"}",
        2.0,
    ),
    (
        "hopguard_token_checks_total{issuer=\"corp\",result=\"expired\",cache_hit=\"true\"}",
        9.0,
    ),
    (
        "hopguard_tls_handshakes_total{direction=\"inbound\",version=\"TLSv1.3\",kx_group=\"X25519MLKEM768\",result=\"ok\"}",
        1.0,
    ),
    (
        "hopguard_plaintext_accepted_total{port=\"8080\",src=\"unknown\"}",
        1.0,
    ),
    ("hopguard_protocol_detect_seconds_count{result=\"http1\"}", 1.0),
    ("hopguard_jwks_age_seconds{issuer=\"corp\"}", 7.0),
    ("hopguard_jwks_fetch_total{issuer=\"corp\",result=\"ok\"}", 3.0),
    (
        "hopguard_introspections_total{issuer=\"corp\",result=\"inactive\"}",
        4.0,
    ),
    (
        "hopguard_svid_expiry_timestamp_seconds{trust_domain=\"mesh.local\"}",
        2e9,
    ),
    (
        "hopguard_bundle_expiry_timestamp_seconds{trust_domain=\"mesh.local\"}",
        2e9,
    ),
    ("hopguard_svid_rotations_total{result=\"ok\"}", 1.0),
    (
        "hopguard_config_info{mesh=\"aa\",policy=\"bb\",version=\"0.1.0\"}",
        1.0,
    ),
    (
        "hopguard_config_reload_total{what=\"policy\",result=\"refused\"}",
        1.0,
    ),
    ("hopguard_dropped_records_total", 1.0),
    ("hopguard_metric_series_refused_total", 0.0),
];

#[test]
fn every_name_of_the_plan_is_there_once_it_has_a_value() {
    let metrics = Metrics::new();
    let later = UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    metrics.token_checks_total("corp".into(), "expired", true, 7);
    metrics.token_checks_total("corp".into(), "expired", true, 9);
    metrics.token_checks_total("".into(), "malformed", false, 2);
    metrics.handshake(Direction::Inbound, "TLSv1.3", "X25519MLKEM768", "ok");
    metrics.plaintext_accepted(8080, "unknown".into());
    metrics.detected("http1", Duration::from_micros(30));
    metrics.jwks_age("corp".into(), Some(Duration::from_secs(7)));
    metrics.jwks_fetches_total("corp".into(), "ok", 3);
    metrics.introspections_total("corp".into(), "inactive", 4);
    metrics.svid_expiry("mesh.local".into(), later);
    metrics.bundle_expiry([("mesh.local".into(), later)]);
    metrics.svid_rotated("ok");
    metrics.config_info("aa", "bb", "0.1.0");
    metrics.config_reloaded("policy", "refused");
    metrics.dropped_records().inc();
    let text = metrics.encode();
    for (series, expected) in PLAN {
        assert_eq!(value(&text, series), Some(*expected), "{series} in {text}");
    }
    for series in [
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
    ] {
        assert!(value(&text, series).unwrap() > 0.0, "{series}");
    }
    assert!(value(&text, "process_cpu_seconds_total").is_some());
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn what_describes_the_present_forgets_the_past() {
    let metrics = Metrics::new();
    metrics.config_info("aa", "bb", "0.1.0");
    metrics.config_info("cc", "bb", "0.1.0");
    metrics.jwks_age("gone".into(), None);
    metrics.forget_issuers();
    let text = metrics.encode();
    assert!(!text.contains("mesh=\"aa\"") && text.contains("mesh=\"cc\""));
    assert!(!text.contains("gone"));
}

#[test]
fn a_feed_is_asked_at_each_scrape() {
    let metrics = Metrics::new();
    metrics.on_scrape(|metrics| metrics.svid_rotated("asked"));
    metrics.encode();
    let text = metrics.encode();
    assert_eq!(
        value(&text, "hopguard_svid_rotations_total{result=\"asked\"}"),
        Some(2.0)
    );
}

#[test]
fn the_cpu_counter_never_goes_back() {
    let metrics = Metrics::new();
    let tell = |seconds: f64| {
        metrics.process.set(&Process {
            cpu_seconds: Some(seconds),
            ..Process::default()
        });
        metrics.process.cpu_seconds.get()
    };
    assert_eq!([tell(1.0), tell(0.5), tell(1.5)], [1.0, 1.0, 1.5]);
}
