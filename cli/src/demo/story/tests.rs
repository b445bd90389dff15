use super::*;

fn hop(src: &str, dst: &str, verdict: &str, trace: Option<&str>) -> Hop {
    Hop {
        src: src.into(),
        dst: dst.into(),
        user: Some("alice".into()),
        verdict: verdict.into(),
        rule: Some("front-door".into()),
        reason: String::new(),
        detail: None,
        identity: true,
        status: None,
        trace: trace.map(str::to_owned),
    }
}

fn tried_with(status: Option<u16>) -> Tried {
    Tried {
        how: "x",
        status,
        refused: status.is_none().then(|| "tls: alert".to_owned()),
    }
}

/// What the script wants of a scenario, as if it had been seen.
fn perfect(scenario: &Scenario) -> Observed {
    let status = match scenario.expected {
        Expected::Status(status) => Some(status),
        Expected::Refused => None,
    };
    let hops = scenario
        .attempts
        .iter()
        .flat_map(|_| scenario.hops)
        .map(|wanted| Hop {
            user: wanted.user.map(str::to_owned),
            rule: wanted.rule.map(str::to_owned),
            reason: wanted.reason.unwrap_or_default().to_owned(),
            ..hop(wanted.src, wanted.dst, wanted.verdict, None)
        });
    observed(
        scenario.attempts.iter().map(|_| tried_with(status)).collect(),
        scenario.charges(),
        hops.collect(),
    )
}

#[test]
fn what_the_script_wants_is_no_problem() {
    for scenario in &SCENARIOS {
        assert_eq!(
            problems(scenario, &perfect(scenario)),
            Vec::<String>::new(),
            "{}",
            scenario.id
        );
    }
}

#[test]
fn each_thing_that_goes_wrong_is_a_problem() {
    for scenario in &SCENARIOS {
        let good = perfect(scenario);
        let mut answered = good.clone();
        answered.attempts.last_mut().unwrap().status = Some(204);
        let mut reached = good.clone();
        reached.application_requests += 1;
        let mut unseen = good.clone();
        unseen.hops.pop();
        let mut let_in = good.clone();
        let_in.hops.push(hop("stranger", "payments", "allow", None));
        for (what, bad) in [
            ("answer", answered),
            ("application", reached),
            ("record", unseen),
            ("entry", let_in),
        ] {
            assert!(!problems(scenario, &bad).is_empty(), "{}: {what}", scenario.id);
        }
    }
}

#[test]
fn hops_are_told_from_the_caller_on() {
    let traces = [("t1".to_owned(), "laptop"), ("t2".to_owned(), "laptop")];
    let written = vec![
        hop("laptop", "web", "deny", Some("t2")),
        hop("orders", "payments", "allow", Some("t1")),
        hop("web", "orders", "allow", Some("t1")),
        hop("laptop", "web", "allow", Some("t1")),
    ];
    let told: Vec<_> = in_order(written, &traces)
        .into_iter()
        .map(|h| (h.src, h.verdict))
        .collect();
    let told: Vec<_> = told
        .iter()
        .map(|(src, verdict)| (src.as_str(), verdict.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("laptop", "allow"),
            ("web", "allow"),
            ("orders", "allow"),
            ("laptop", "deny")
        ]
    );
}

#[test]
fn a_hop_of_somebody_else_does_not_belong() {
    let traces = [("t1".to_owned(), "stranger")];
    assert!(belongs(&hop("web", "orders", "allow", Some("t1")), &traces));
    assert!(belongs(&hop("stranger", "payments", "deny", None), &traces));
    assert!(!belongs(
        &hop("stranger", "payments", "deny", Some("t9")),
        &traces
    ));
    assert!(!belongs(&hop("web", "orders", "deny", None), &traces));
}
