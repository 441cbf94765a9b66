//! What groups have counted, summed up over the nodes: right in the end, and at a pace that the server can bear.

use super::*;

/// Inbound, allowed and denied, as the group's status says.
fn told(api: &FakeApi, group: &str) -> (u64, u64) {
    let status = api.get("securitygroups", group).unwrap_or_default()["status"]["packets"].clone();
    (status["ingressAllowed"].as_u64().unwrap_or_default(), status["ingressDenied"].as_u64().unwrap_or_default())
}

async fn minutes(minutes: u64) {
    sleep(Duration::from_secs(60 * minutes)).await;
}

#[tokio::test(start_paused = true)]
async fn counts_of_all_nodes_are_in_the_status_within_a_minute() {
    let api = shop(0..1);
    api.report_packets("n1", "web", "uid-web", 5, 1);
    let running = start(&api).await;
    minutes(1).await;
    assert_eq!(told(&api, "web"), (5, 1));
    api.report_packets("n2", "web", "uid-web", 20, 2);
    api.report_packets("n3", "web", "of-another", 100, 100);
    minutes(1).await;
    assert_eq!(told(&api, "web"), (25, 3));

    // Another change of the group takes along what is known, and a new leader takes nothing back.
    api.pod(1, "web");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(told(&api, "web"), (25, 3));
    running.shutdown.cancel();
    running.task.await.expect("it ends");
    api.requests();
    let _running = start(&api).await;
    api.pod(2, "web");
    minutes(10).await;
    assert_eq!(told(&api, "web"), (25, 3));
    let requests = api.requests();
    let of_web = requests.iter().filter(|request| request.plural == "securitygroups" && request.name == "web");
    assert!(of_web.clone().all(|request| request.body["status"]["packets"]["ingressAllowed"] == 25), "{requests:#?}");
    assert_eq!(of_web.count(), 1, "for the pod");

    api.remove("nodereports", "n2");
    minutes(1).await;
    assert_eq!(told(&api, "web"), (5, 1), "a node that is gone takes its counts along");
    api.group("web", "another", 1, &[]);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(told(&api, "web"), (0, 0), "made again under its name");
    assert_eq!(told(&api, "db"), (0, 0));
}

/// P32: counts that change all the time are a write a minute and group, and no round of their own each.
#[tokio::test(start_paused = true)]
async fn p32_counts_of_a_thousand_nodes_are_one_write_a_minute() {
    let api = shop(0..1);
    let _running = start(&api).await;
    minutes(1).await;
    api.requests();
    for n in 0..3000_u64 {
        api.report_packets(&format!("n{}", n % 1000), "web", "uid-web", n, 0);
        sleep(Duration::from_millis(60)).await;
    }
    minutes(2).await;
    let requests = api.requests();
    let writes = requests.iter().filter(|request| request.plural == "securitygroups" && request.name == "web").count();
    // The first time that a node has the group in force is a change of another kind.
    let programmed = 1;
    assert!((2..=5 + programmed).contains(&writes), "{writes} writes in 5 minutes");
    assert_eq!(told(&api, "web"), ((2000..3000).sum(), 0));
}

#[tokio::test(start_paused = true)]
async fn of_very_many_groups_twenty_a_second_have_their_turn() {
    let mut facts = Facts::default();
    let api = FakeApi::new();
    (0..3000).for_each(|n| api.group(&format!("g{n}"), &format!("uid-{n}"), 1, &[]));
    (0..3000).for_each(|n| api.report_packets(&format!("n{n}"), &format!("g{n}"), &format!("uid-{n}"), 1, 1));
    for list in api.lists() {
        let _ = facts.apply(list);
    }
    let summed = |facts: &Facts| (0..3000).filter(|n| !facts.packets(&group_ref(*n), &format!("uid-{n}")).is_none()).count();
    for turn in 1..=15 {
        assert_eq!((facts.recount(), summed(&facts)), (Changed::Yes, 200 * turn), "turn {turn}");
    }
    for _ in 0..20 {
        assert_eq!(facts.recount(), Changed::No, "all the same");
    }
}

fn group_ref(n: usize) -> policy::model::GroupRef {
    policy::model::GroupRef { namespace: "shop".into(), name: format!("g{n}") }
}
