use std::collections::BTreeSet;
use std::net::IpAddr;

use policy::resolve;
use runtime::health::Registry;
use tokio::time::sleep;

use super::*;
use crate::fake::{FakeApi, Seen};
use crate::outbox::STATUS_INTERVAL;

mod notices;
mod observed;
mod packets;
mod protection;

/// An operator that runs against a fake API server, in virtual time.
struct Running {
    leads: state::Sender<bool>,
    messages: mpsc::Sender<Message>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

/// One that leads and has its lists.
async fn start(api: &FakeApi) -> Running {
    let running = start_before_lists(api, true);
    api.watched_by(&running.messages).await;
    running
}

fn start_before_lists(api: &FakeApi, leading: bool) -> Running {
    let (messages, receiver) = mpsc::channel(1024);
    let (leads, leading) = state::channel(leading);
    let shutdown = CancellationToken::new();
    let client = api.client();
    let events = Events::new(client.clone(), leading.clone());
    let operator = Operator::new(client, Metrics::new(&mut Registry::default()), events, Heartbeat::default());
    let task = tokio::spawn(operator.run(receiver, leading, shutdown.clone()));
    Running { leads, messages, shutdown, task }
}

/// `db` names `web`, which has these pods.
fn shop(pods: std::ops::Range<u16>) -> FakeApi {
    let api = FakeApi::new();
    api.group("web", "uid-web", 1, &[]);
    api.group("db", "uid-db", 1, &["web"]);
    api.attach("web");
    pods.for_each(|n| api.pod(n, "web"));
    api
}

fn settled(api: &FakeApi) -> bool {
    let cluster = api.cluster();
    policy::slices::plan(&cluster, &resolve(&cluster)).is_empty()
}

fn of<'a>(requests: &'a [Seen], plural: &str) -> Vec<&'a Seen> {
    requests.iter().filter(|request| request.plural == plural).collect()
}

/// The addresses that are published, and whether there is a head.
fn published(api: &FakeApi) -> (BTreeSet<IpAddr>, bool) {
    let cluster = api.cluster();
    let slices = cluster.slices.all();
    (slices.values().flat_map(|slice| slice.addresses.clone()).collect(), slices.values().any(|slice| slice.head))
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_before_every_watch_has_listed() {
    for left_out in 0..8 {
        let api = shop(0..3);
        let running = start_before_lists(&api, true);
        let mut lists = api.lists();
        let late = lists.remove(left_out);
        for list in lists {
            running.messages.send(list).await.expect("it listens");
        }
        sleep(Duration::from_secs(60)).await;
        assert!(api.requests().is_empty(), "without list {left_out}");
        running.messages.send(late).await.expect("it listens");
        sleep(Duration::from_millis(50)).await;
        assert!(!api.requests().is_empty());
        running.shutdown.cancel();
        running.task.await.expect("it ends");
    }
}

/// When the operator says that it saw what made it write the last slice.
fn changed_at(requests: &[Seen]) -> Timestamp {
    let last = of(requests, "memberslices").pop().expect("a slice is written");
    last.body["metadata"]["annotations"][api::ANNOTATION_CHANGED_AT].as_str().and_then(|text| text.parse().ok()).expect("a time")
}

/// Between a change and the slices that answer it there may be the echo of slices and statuses that we have written.
#[tokio::test(start_paused = true)]
async fn the_clock_of_a_slice_starts_with_the_change_and_not_with_an_echo_before_it() {
    let api = shop(0..3);
    let _running = start(&api).await;
    sleep(Duration::from_secs(2)).await;
    api.pod(3, "web");
    // The echo is there after 4 ms, and the next round is 20 ms after the last one.
    sleep(Duration::from_millis(10)).await;
    assert!(!of(&api.requests(), "memberslices").is_empty());
    std::thread::sleep(Duration::from_millis(5));
    let before = Timestamp::now();
    api.pod(4, "web");
    sleep(Duration::from_secs(1)).await;
    assert!(changed_at(&api.requests()).as_microsecond() >= before.as_microsecond());
}

#[tokio::test(start_paused = true)]
async fn only_a_leader_writes() {
    let api = shop(0..3);
    let running = start_before_lists(&api, false);
    api.watched_by(&running.messages).await;
    sleep(Duration::from_secs(60)).await;
    assert!(api.requests().is_empty());
    running.leads.send_replace(true);
    sleep(Duration::from_secs(1)).await;
    assert!(settled(&api));
    running.leads.send_replace(false);
    sleep(Duration::from_secs(1)).await;
    api.requests();
    api.pod(7, "web");
    sleep(Duration::from_secs(60)).await;
    assert!(api.requests().is_empty());
    running.leads.send_replace(true);
    sleep(Duration::from_secs(1)).await;
    assert!(settled(&api));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_one_no_longer_leaves_the_rest_of_a_large_group_to_the_next() {
    let api = shop(0..500);
    let running = start_before_lists(&api, true);
    // It loses the lease while the lists are being read, before the first write is through.
    api.watched_by(&running.messages).await;
    api.until_requests(1).await;
    running.leads.send_replace(false);
    sleep(Duration::from_secs(30)).await;
    let (_, has_head) = published(&api);
    assert!(!has_head && !settled(&api));
    running.leads.send_replace(true);
    sleep(Duration::from_secs(5)).await;
    assert!(settled(&api));
}

#[tokio::test(start_paused = true)]
async fn one_membership_change_is_one_small_write_within_30_ms() {
    let api = shop(0..100);
    let _running = start(&api).await;
    sleep(Duration::from_secs(5)).await;
    assert!(settled(&api));
    for n in 100..120 {
        api.requests();
        let joined = Instant::now();
        api.pod(n, "web");
        sleep(Duration::from_secs(1)).await;
        let requests = api.requests();
        let slices = of(&requests, "memberslices");
        assert_eq!(slices.len(), 1, "{slices:?}");
        assert!(slices[0].at - joined <= Duration::from_millis(30), "{:?}", slices[0].at - joined);
        assert!(slices[0].body.to_string().len() < 2048);
        assert!(settled(&api));
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_gets_its_address_just_after_it_was_made_does_not_wait() {
    let api = shop(0..10);
    let _running = start(&api).await;
    sleep(Duration::from_secs(5)).await;
    api.requests();
    for n in 10..20 {
        api.pod_without_address(n, "web");
        sleep(Duration::from_millis(4)).await;
        let addressed = Instant::now();
        api.pod(n, "web");
        sleep(Duration::from_secs(1)).await;
        let requests = api.requests();
        let slices = of(&requests, "memberslices");
        assert_eq!(slices.len(), 1);
        assert!(slices[0].at - addressed <= Duration::from_millis(5), "{:?}", slices[0].at - addressed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_changes_is_taken_together() {
    let api = shop(0..0);
    let _running = start(&api).await;
    sleep(Duration::from_secs(5)).await;
    api.requests();
    (0..300).for_each(|n| api.pod(n, "web"));
    sleep(Duration::from_secs(5)).await;
    assert!(settled(&api));
    let requests = api.requests();
    let writes = of(&requests, "memberslices").len();
    assert!(writes <= 25, "600 addresses fill 19 slices; {writes} writes");
}

#[tokio::test(start_paused = true)]
async fn the_head_waits_for_every_other_slice_whatever_fails() {
    for fault in 0..8 {
        let api = shop(0..100);
        api.faults((0..8).map(|n| if n == fault { 500 } else { 0 }));
        let _running = start(&api).await;
        for _ in 0..200 {
            sleep(Duration::from_millis(10)).await;
            let (addresses, has_head) = published(&api);
            assert!(!has_head || addresses.len() == 200, "a head with {} of 200 addresses, fault {fault}", addresses.len());
        }
        sleep(Duration::from_secs(5)).await;
        assert!(settled(&api));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_written_is_not_written_again_while_the_watch_is_slow() {
    let api = shop(0..100);
    api.echo(Duration::from_millis(900));
    let _running = start(&api).await;
    sleep(Duration::from_millis(950)).await;
    api.pod(500, "web");
    sleep(Duration::from_secs(20)).await;
    assert!(settled(&api));
    let requests = api.requests();
    assert!(requests.iter().all(|request| request.code == 200), "{requests:?}");
    assert_eq!(of(&requests, "memberslices").len(), 8, "seven to publish, one for the pod that came then");
}

#[tokio::test(start_paused = true)]
async fn a_status_is_written_at_once_and_then_four_times_a_second_at_most() {
    let api = shop(0..1);
    let _running = start(&api).await;
    sleep(Duration::from_secs(5)).await;
    api.requests();
    let first_change = Instant::now();
    for n in 1..=100 {
        api.pod(n, "web");
        sleep(Duration::from_millis(20)).await;
    }
    sleep(Duration::from_secs(2)).await;
    let requests = api.requests();
    let statuses: Vec<&Seen> = of(&requests, "securitygroups").into_iter().filter(|request| request.name == "web").collect();
    assert!(statuses[0].at - first_change <= Duration::from_millis(30), "the first at once");
    assert!(statuses.windows(2).all(|two| two[1].at - two[0].at >= STATUS_INTERVAL), "then not too often");
    assert!(statuses.len() <= 10, "{} in 2 s", statuses.len());
    assert_eq!(api.get("securitygroups", "web").map(|web| web["status"]["members"].clone()), Some(101.into()), "the last word is right");
}

#[tokio::test(start_paused = true)]
async fn programmed_follows_the_reports() {
    let api = shop(0..1);
    let _running = start(&api).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(api.condition("web", "Programmed"), "False Programming");
    api.report("web", "uid-web", 1);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(api.condition("web", "Programmed"), "True Programmed");
    api.group("web", "another", 1, &[]);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(api.condition("web", "Programmed"), "False Programming", "made again under its name");
    assert_eq!(api.condition("db", "Programmed"), "True NoMembers");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_when_nothing_changes() {
    let api = shop(0..50);
    let _running = start(&api).await;
    sleep(Duration::from_secs(5)).await;
    api.requests();
    sleep(Duration::from_secs(3600)).await;
    assert!(api.requests().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_is_asked_less_and_less_and_caught_up_with() {
    let api = shop(0..1);
    let _running = start(&api).await;
    sleep(Duration::from_secs(5)).await;
    api.requests();
    api.down(true);
    (1..40).for_each(|n| api.pod(n, "web"));
    sleep(Duration::from_secs(600)).await;
    let tries = api.requests().len();
    assert!((20..400).contains(&tries), "{tries} tries in 10 minutes, for three objects");
    api.down(false);
    sleep(Duration::from_secs(11)).await;
    assert!(settled(&api));
}

#[tokio::test(start_paused = true)]
async fn somebody_elses_write_is_seen_and_put_right() {
    let api = shop(0..10);
    let _running = start(&api).await;
    sleep(Duration::from_secs(5)).await;
    let key = api.cluster().slices.all().keys().next().expect("a slice").clone();
    let mut slice = api.get("memberslices", &key.1).expect("it is stored");
    slice["addresses"] = serde_json::json!(["192.0.2.1"]);
    api.put("memberslices", slice);
    // Not yet known to the operator, which writes on the version before.
    api.pod(11, "web");
    sleep(Duration::from_secs(5)).await;
    assert!(settled(&api));
    api.remove("memberslices", &key.1);
    sleep(Duration::from_secs(5)).await;
    assert!(settled(&api) && published(&api).1);
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_write_the_next_run_finishes() {
    for writes in 0..12 {
        let api = shop(0..100);
        let running = start(&api).await;
        api.until_requests(writes).await;
        running.task.abort();
        let _ = running.task.await;
        // In between db names nobody, and names web again.
        api.group("db", "uid-db", 2, &[]);
        let running = start(&api).await;
        api.until_requests(writes + 2).await;
        running.task.abort();
        let _ = running.task.await;
        api.group("db", "uid-db", 3, &["web"]);
        let _running = start(&api).await;
        sleep(Duration::from_secs(5)).await;
        assert!(settled(&api), "killed after {writes} writes");
        assert_eq!(published(&api).0.len(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_told_and_lets_a_write_end_that_is_under_way() {
    let api = shop(0..3);
    api.latency(Duration::from_secs(1));
    let running = start(&api).await;
    sleep(Duration::from_millis(100)).await;
    running.shutdown.cancel();
    running.task.await.expect("it ends");
    assert!(settled(&api));
    api.pod(7, "web");
    sleep(Duration::from_secs(60)).await;
    assert!(!settled(&api), "nobody writes any more");
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_told_although_the_server_does_not_answer() {
    let api = shop(0..3);
    api.latency(Duration::from_secs(3600));
    let running = start(&api).await;
    sleep(Duration::from_millis(100)).await;
    let told = Instant::now();
    running.shutdown.cancel();
    running.task.await.expect("it ends");
    assert!(told.elapsed() <= client::WRITE_TIMEOUT);
}
