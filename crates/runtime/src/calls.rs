//! Calls to the API server, counted: what was asked of what, how it ended, and how long the answer took to begin.

use std::task::{Context, Poll};
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, Request, Response, Uri};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tower::{Layer, Service};

type Labels = Vec<(&'static str, String)>;

/// A layer around a client. There are as many series as we make kinds of calls, whatever users write.
#[derive(Clone, Debug)]
pub struct Calls {
    requests: Family<Labels, Counter>,
    seconds: Family<Labels, Histogram, fn() -> Histogram>,
}

impl Calls {
    /// Registered, nothing counted.
    pub fn new(registry: &mut Registry) -> Calls {
        let calls = Calls {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 14))),
        };
        registry.register(
            "api_requests",
            "Requests to the API server, by verb, resource and HTTP code; code error: no answer",
            calls.requests.clone(),
        );
        registry.register("api_request_seconds", "Time until the API server began to answer, by verb and resource", calls.seconds.clone());
        calls
    }
}

impl<S> Layer<S> for Calls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, calls: self.clone() }
    }
}

/// A client whose calls are counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    calls: Calls,
}

impl<S, A, B> Service<Request<A>> for Counted<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let (calls, started, labels) = (self.calls.clone(), Instant::now(), labels(request.method(), request.uri()));
        let answer = self.inner.call(request);
        async move {
            let answer = answer.await;
            calls.seconds.get_or_create_owned(&labels).observe(started.elapsed().as_secs_f64());
            let code = answer.as_ref().map_or("error".into(), |answer| answer.status().as_u16().to_string());
            calls.requests.get_or_create_owned(&[labels, vec![("code", code)]].concat()).inc();
            answer
        }
        .boxed()
    }
}

/// The verb as in RBAC rules, and the resource, with its subresource: `pods`, `securitygroups/status`.
fn labels(method: &Method, uri: &Uri) -> Labels {
    let mut parts: Vec<&str> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
    // /api/v1/… and /apis/GROUP/VERSION/…
    let prefix = if parts.first() == Some(&"api") { 2 } else { 3 };
    parts.drain(..prefix.min(parts.len()));
    if parts.len() > 2 && parts[0] == "namespaces" {
        parts.drain(..2);
    }
    let (resource, name, sub) = (parts.first().copied().unwrap_or("other"), parts.get(1), parts.get(2));
    let is_watch = uri.query().is_some_and(|query| query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1")));
    let verb = match *method {
        Method::GET if is_watch => "watch",
        Method::GET if name.is_none() => "list",
        Method::GET => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    };
    let resource = sub.map_or(resource.to_string(), |sub| format!("{resource}/{sub}"));
    vec![("verb", verb.to_string()), ("resource", resource)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_named_as_in_rbac_and_by_no_name_of_an_object() {
        for (method, uri, verb, resource) in [
            (Method::GET, "/api/v1/pods?fieldSelector=x&watch=true", "watch", "pods"),
            (Method::GET, "/api/v1/pods?limit=500", "list", "pods"),
            (Method::GET, "/api/v1/namespaces?", "list", "namespaces"),
            (Method::GET, "/api/v1/namespaces/shop", "get", "namespaces"),
            (Method::GET, "/api/v1/namespaces/shop/configmaps", "list", "configmaps"),
            (
                Method::PATCH,
                "/apis/securitygroups.dev/v1alpha1/namespaces/shop/securitygroups/web/status?",
                "patch",
                "securitygroups/status",
            ),
            (Method::POST, "/apis/securitygroups.dev/v1alpha1/namespaces/shop/memberslices", "create", "memberslices"),
            (Method::DELETE, "/apis/securitygroups.dev/v1alpha1/namespaces/shop/memberslices/web-abcde", "delete", "memberslices"),
            (Method::GET, "/apis/securitygroups.dev/v1alpha1/nodereports/n1", "get", "nodereports"),
            (Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/x/leases/operator", "update", "leases"),
            (Method::GET, "/version", "list", "other"),
        ] {
            let wanted: Labels = vec![("verb", verb.into()), ("resource", resource.into())];
            assert_eq!(labels(&method, &uri.parse().unwrap()), wanted, "{uri}");
        }
    }

    #[tokio::test]
    async fn answers_and_their_absence_are_counted() {
        let mut registry = Registry::default();
        let calls = Calls::new(&mut registry);
        for answer in [Ok(200), Ok(409), Err("connection refused")] {
            let server =
                tower::service_fn(
                    move |_: Request<()>| async move { answer.map(|code| Response::builder().status(code).body(()).unwrap()) },
                );
            let request = Request::patch("/apis/x/v1/namespaces/shop/things/web").body(()).unwrap();
            assert_eq!(calls.layer(server).call(request).await.map(|answer| answer.status().as_u16()), answer);
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for code in ["200", "409", "error"] {
            let series = format!(r#"api_requests_total{{verb="patch",resource="things",code="{code}"}} 1"#);
            assert!(text.contains(&series), "{series} in {text}");
        }
        assert!(text.contains(r#"api_request_seconds_count{verb="patch",resource="things"} 3"#), "{text}");
    }
}
