//! What is seen from outside: metrics and logs.

use std::io::Write;
use std::sync::Mutex;

use runtime::logs::{EnvFilter, Format, subscriber};
use serde_json::Value;

use super::*;

/// All that the operator serves, each at least once.
#[tokio::test]
async fn the_page_of_metrics_lists_what_is_served_and_nothing_else() {
    let mut registry = health::registry("securitygroups_operator", "1.2.3");
    let calls = Calls::new(&mut registry);
    // Nobody listens there: the first call fails, and is counted.
    let client = client::of(kube::Config::new("http://127.0.0.1:1".parse().expect("an address")), &calls).expect("a client");
    let (watches, _messages) = Watches::<Message>::new(client, Readiness::default(), &mut registry);
    let _open = watches.namespaces(Message::Fact);
    let metrics = Metrics::new(&mut registry);
    metrics.round("slices", Duration::ZERO);
    metrics.known(&Facts::default());
    metrics.write(&crate::due::Lane::Slices("sg-1".into()), Ending::Done, Duration::ZERO);
    let page = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        text
    };
    for _ in 0..500 {
        if page().contains("api_requests_total{") {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    testkit::metrics::documented("securitygroups_operator", &page()).unwrap_or_else(|why| panic!("{why}"));
}

/// What a log has got so far.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panics with it").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn lines(&self) -> Vec<Value> {
        let bytes = self.0.lock().expect("nobody panics with it").clone();
        String::from_utf8(bytes).expect("text").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_of_json_names_the_object_that_it_is_about() {
    let log = Log::default();
    let writer = log.clone();
    let _logging = tracing::subscriber::set_default(subscriber(Format::Json, EnvFilter::new("info"), false, move || writer.clone()));
    let api = shop(0..3);
    api.faults([500, 500, 500]);
    let _running = start(&api).await;
    sleep(Duration::from_secs(10)).await;
    let lines = log.lines();
    let about = |kind: &str| lines.iter().find(|line| line["kind"] == kind).unwrap_or_else(|| panic!("no line of a {kind}: {lines:#?}"));
    let group = about("SecurityGroup");
    assert_eq!((&group["level"], &group["namespace"]), (&"WARN".into(), &"shop".into()), "{group}");
    assert!(["web", "db"].iter().any(|name| group["name"] == *name), "{group}");
    assert_eq!(group["message"], "write failed; trying again");
    assert_eq!(about("MemberSlice")["name"].as_str(), Some(policy::id::group("uid-web").as_str()));
}
