//! Reflection and health on the same socket: what a `grpcurl` and a probe find there (S-40), without the security header and
//! without an identity, and within the same limits.

use serde_json::json;

use crate::drivers::Client;
use crate::support::*;

/// S-40.
#[test]
fn reflection_shows_every_service_and_the_whole_workload_api() {
    // Whoever asks need not be anybody.
    let authority = Authority::start("");
    let mut raw = Client::Raw.connect(&authority.endpoint());
    for version in ["v1", "v1alpha"] {
        let said = raw.ask(&json!({"do": "reflect", "version": version}));
        let services = said["services"].as_array().unwrap_or_else(|| panic!("{said}"));
        for service in ["SpiffeWorkloadAPI", "grpc.health.v1.Health"] {
            assert!(services.contains(&json!(service)), "{said}");
        }
        assert!(
            services.contains(&json!(format!("grpc.reflection.{version}.ServerReflection"))),
            "{said}"
        );
        // S-39: nothing but what the specification has.
        assert_eq!(
            said["methods"],
            json!([
                "FetchX509SVID",
                "FetchX509Bundles",
                "FetchJWTSVID",
                "FetchJWTBundles",
                "ValidateJWTSVID"
            ])
        );
    }
}

#[test]
fn health_says_serving_to_anybody() {
    let authority = Authority::start("");
    let mut raw = Client::Raw.connect(&authority.endpoint());
    let mut health = |service: &str| raw.ask(&json!({"do": "health", "service": service}));
    for service in ["", "SpiffeWorkloadAPI"] {
        assert_eq!(health(service)["health"], "SERVING", "{service}");
    }
    assert_eq!(health("no.such.Service")["status"], "NOT_FOUND");
}

#[test]
fn no_service_and_no_open_call_is_a_way_around_the_limits() {
    let limits = "[limits]\ncalls_per_second = 1\ncall_burst = 40\n";
    let authority = Authority::with(&for_us("a"), "1h", limits);
    let mut raw = Client::Raw.connect(&authority.endpoint());
    let flood = raw.ask(&json!({"do": "flood", "questions": 20_000}));
    let answers = flood["answers"].as_u64().unwrap_or_else(|| panic!("{flood}"));
    assert!(answers < 5_000, "one call asked {answers} questions: {flood}");
    for question in [
        json!({"do": "health", "service": ""}),
        json!({"do": "reflect", "version": "v1"}),
        json!({"do": "bare", "method": "NoSuchMethod", "headers": [["workload.spiffe.io", "true"]]}),
        json!({"do": "bare", "method": "FetchX509SVID", "headers": [["workload.spiffe.io", "true"]]}),
    ] {
        assert_eq!(raw.ask(&question)["status"], "UNAVAILABLE", "{question}");
    }
    assert!(authority.log().contains("too many calls"), "{}", authority.log());
}
