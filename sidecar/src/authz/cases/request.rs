//! What a test asks, read as a sidecar reads it: the request's parts enter, a head that was parsed, judged and stripped by the
//! very rules of a live one leaves, or why a sidecar would refuse it. A test of a request that never comes proves nothing.

use std::ops::Range;

use spiffe::SpiffeId;
use toml::Spanned;

use super::super::facts::User;
use super::super::model::{IssuerModel, ServiceModel};
use super::super::route::{Router, Template, canonical_escapes};
use super::super::rules::nearest;
use super::Http;
use super::reading::Reading;
use super::text::{RequestText, UserText};
use crate::request::{DeclaredHeader, Head, Limits, Refusal, Spellings, parse_head};

impl Reading<'_, '_, '_> {
    /// Who may speak on the port at all.
    pub(super) fn mode(
        &mut self,
        service: &Spanned<String>,
        port: u16,
        (peer, tls): (&Option<SpiffeId>, Option<bool>),
    ) -> Option<()> {
        let strict = self.service(service)?.strict.contains(&port);
        if peer.is_none() && strict {
            let message = format!(
                "port {port} of `{}` is strict: a caller without a certificate never comes to a policy",
                service.get_ref()
            );
            let hint = "name another peer, or set `mode` of the port in the mesh file";
            self.wrong(service.span(), message, Some(hint.to_owned()));
            return None;
        }
        if peer.is_some() && tls == Some(false) {
            let message = "a peer that proves an identity does so by TLS".to_owned();
            self.wrong(service.span(), message, Some("take `tls` away".to_owned()));
            return None;
        }
        Some(())
    }

    /// The request, as the sidecar of its service would read it.
    pub(super) fn http(&mut self, text: RequestText, user: Option<User>) -> Option<(String, Http)> {
        let service = self.service(&text.service)?.clone();
        let lines = self.lines(&text)?;
        let host = match text.host {
            Some(host) => host,
            None => service
                .hosts
                .first()
                .cloned()
                .unwrap_or_else(|| "localhost".to_owned()),
        };
        let method = text.method.map_or_else(|| "GET".to_owned(), Spanned::into_inner);
        let at = text.path.span();
        let wire = format!(
            "{method} {} HTTP/1.1\r\nhost: {host}\r\n{lines}\r\n",
            text.path.get_ref()
        );
        if [method.as_str(), text.path.get_ref(), &host]
            .iter()
            .any(|text| text.chars().any(char::is_control))
        {
            self.wrong(at, "a request holds no control character".to_owned(), None);
            return None;
        }
        let head = match parse_head(wire.as_bytes(), &Limits::default()) {
            Ok(Some(head)) if head.len == wire.len() => head,
            Ok(_) => {
                self.wrong(at, "this is no request".to_owned(), None);
                return None;
            }
            Err(refusal) => return self.refused(at, &refusal),
        };
        if head.query.is_some() {
            let hint = "take the query away: no policy ever sees one";
            self.wrong(at, "the path holds a query".to_owned(), Some(hint.to_owned()));
            return None;
        }
        let literal = head.host.starts_with('[') || head.host.parse::<std::net::IpAddr>().is_ok();
        if !literal && !service.hosts.is_empty() && !service.hosts.contains(&head.host) {
            let message = format!(
                "a request to host `{}` never comes to `{}`",
                head.host, service.name
            );
            let hint = format!("its hosts are: {}", service.hosts.join(", "));
            self.wrong(at, message, Some(hint));
            return None;
        }
        let spelled = head.spelled(
            |path| route_of(&service, &head.method, path),
            |route| {
                service
                    .routes
                    .get(*route)
                    .map_or_else(Spellings::default, |route| route.spellings)
            },
        );
        match spelled.and_then(|()| head.declared(&self.declared())) {
            Ok(headers) => Some((service.name, http(head, headers, user))),
            Err(refusal) => self.refused(at, &refusal),
        }
    }

    fn refused<T>(&mut self, at: Range<usize>, refusal: &Refusal) -> Option<T> {
        let message = format!(
            "a sidecar refuses this request before any policy: {} ({} {})",
            refusal.detail, refusal.status, refusal.code
        );
        let hint = "a test asks what can come to a policy: docs/request-attacks.md lists what cannot";
        self.wrong(at, message, Some(hint.to_owned()));
        None
    }

    fn declared(&self) -> Vec<DeclaredHeader> {
        let headers = self.model.headers.iter().map(|header| DeclaredHeader {
            cedar: header.name.clone(),
            name: header.wire.clone(),
            list: header.list,
        });
        headers.collect()
    }

    /// The headers as lines.
    fn lines(&mut self, text: &RequestText) -> Option<String> {
        let model = self.model;
        let mut lines = String::new();
        for (name, values) in &text.headers {
            let Some(header) = model.headers.iter().find(|header| header.name == *name) else {
                let all: Vec<&str> = model.headers.iter().map(|h| h.name.as_str()).collect();
                let message = format!("header `{name}` is not declared in the mesh file");
                self.wrong(values.span(), message, nearest(name, &all));
                return None;
            };
            for value in &values.get_ref().0 {
                if value.chars().any(char::is_control) {
                    let message = format!("a value of header `{name}` holds a control character");
                    self.wrong(values.span(), message, None);
                    return None;
                }
                lines += &format!("{}: {value}\r\n", header.wire);
            }
        }
        Some(lines)
    }

    /// What a token that was taken cannot say otherwise.
    pub(super) fn like_a_token(
        &mut self,
        text: &UserText,
        issuer: &IssuerModel,
        now_millis: i64,
    ) -> Option<()> {
        let alias = &issuer.alias;
        let at = text.issuer.span();
        let mut no = |message: String, hint: Option<String>| {
            self.wrong(at.clone(), message, hint);
            None
        };
        if let Some(iss) = text.iss.as_ref().filter(|iss| **iss != issuer.issuer) {
            let hint = format!("`iss` of `{alias}` is {}: take it away", issuer.issuer);
            return no(
                format!("no token of issuer `{alias}` has the `iss` `{iss}`"),
                Some(hint),
            );
        }
        if text
            .sub
            .as_ref()
            .is_some_and(|sub| sub.is_empty() || sub.chars().any(char::is_control))
        {
            return no(
                "a `sub` is not empty and holds no control character".to_owned(),
                None,
            );
        }
        if let Some(role) = text.roles.0.iter().find(|role| !issuer.role_names.contains(role)) {
            let all: Vec<&str> = issuer.role_names.iter().map(String::as_str).collect();
            let message =
                format!("`{role}` is none of `role_names` of issuer `{alias}`: no policy ever sees it");
            return no(message, nearest(role, &all));
        }
        let taken = |aud: &String| issuer.audiences.contains(aud);
        if !text.aud.0.is_empty() && !issuer.audiences.is_empty() && !text.aud.0.iter().any(taken) {
            let hint = format!("`audiences` of `{alias}` are: {}", issuer.audiences.join(", "));
            return no("a token for this audience is refused".to_owned(), Some(hint));
        }
        let exp = match &text.exp {
            Some(exp) => self.time(Some(exp))?,
            None => return Some(()),
        };
        if exp <= now_millis {
            let message = "the token of this user is expired when the test asks".to_owned();
            self.wrong(
                at,
                message,
                Some("set `time` of the request, or `exp`".to_owned()),
            );
            return None;
        }
        Some(())
    }
}

fn http(head: Head, headers: Vec<(String, Vec<String>)>, user: Option<User>) -> Http {
    Http {
        method: head.method,
        path: head.path,
        bare: head.bare_path,
        host: head.host,
        headers,
        user,
    }
}

/// The place of the route that fits; asked for paths alone that only some routes take.
fn route_of(service: &ServiceModel, method: &str, path: &str) -> Option<usize> {
    let mut router = Router::default();
    for (at, route) in service.routes.iter().enumerate() {
        let template = Template::parse(&route.path).ok()?;
        for method in &route.methods {
            router.add(method, &template, at);
        }
    }
    router
        .find(method, &canonical_escapes(path))
        .map(|found| found.route)
}
