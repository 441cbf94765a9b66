//! Events when a status turns, limits that change, and a thousand nodes.

use serde_json::json;

use super::*;

async fn a_second() {
    sleep(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_turn_of_a_status_is_told_once() {
    let api = shop(0..1);
    let _running = start(&api).await;
    a_second().await;
    assert_eq!(
        api.events(),
        ["Normal NoMembers SecurityGroup db: No endpoint is in this group."],
        "what is as it should be, or still on its way, is no news"
    );
    api.report("web", "uid-web", 1);
    a_second().await;
    assert_eq!(api.events()[1..], ["Normal Programmed SecurityGroup web: Generation 1 is in force on 1 of 1 nodes."]);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(api.events().len(), 2, "and it is told once");
    // Another message is no turn.
    api.pod(1, "web");
    a_second().await;
    assert_eq!(api.events().len(), 2);

    api.remove("securitygroups", "web");
    a_second().await;
    let events = api.events();
    assert_eq!(events.len(), 4, "{events:#?}");
    let ends = |start: &str| events.iter().any(|event| event.starts_with(start));
    assert!(ends("Warning PeerNotFound SecurityGroup db: ingress[0].from[0]: SecurityGroup shop/web does not exist."), "{events:#?}");
    assert!(ends("Warning GroupNotFound Attachment web: SecurityGroup web does not exist in this namespace;"), "{events:#?}");
}

#[tokio::test(start_paused = true)]
async fn s3_a_default_group_that_does_not_exist_is_told_at_the_namespace() {
    let api = FakeApi::new();
    let base = json!({api::LABEL_DEFAULT_GROUP: "base"});
    api.namespace(base.clone(), false);
    let _running = start(&api).await;
    a_second().await;
    let missing = "Warning GroupNotFound Namespace shop: its default group shop/base does not exist; pods in no other group are closed";
    assert_eq!(api.events(), [missing]);
    api.pod(1, "web");
    sleep(Duration::from_secs(600)).await;
    assert_eq!(api.events(), [missing]);
    api.group("base", "uid-base", 1, &[]);
    a_second().await;
    api.remove("securitygroups", "base");
    a_second().await;
    assert_eq!(api.events().iter().filter(|event| *event == missing).count(), 2, "it was there meanwhile");
}

/// P12: who reads a node's report sees that somebody else has changed its table.
#[tokio::test(start_paused = true)]
async fn p12_a_table_that_was_put_right_is_told_once_at_its_nodes_report() {
    let api = FakeApi::new();
    api.report_intact("n1", "True", "nobody", 1);
    let running = start(&api).await;
    a_second().await;
    assert_eq!(api.events(), [""; 0], "as it should be");
    for times in 1..=20 {
        api.report_intact("n1", "False", &format!("put right {times} times"), 100);
        sleep(Duration::from_secs(20)).await;
    }
    let first = "Warning RulesetRepaired NodeReport n1: put right 1 times";
    assert_eq!(api.events(), [first], "the first of many in one while");
    let event = api.stored("events").pop().expect("it is stored");
    assert_eq!(event["regarding"]["uid"], "uid-n1", "kubectl describe looks for it");
    assert_eq!(event["regarding"]["apiVersion"], "securitygroups.dev/v1alpha1");

    // The next leader finds the condition as it stands.
    running.shutdown.cancel();
    running.task.await.expect("it ends");
    let running = start(&api).await;
    a_second().await;
    assert_eq!(api.events(), [first], "and it has been told");
    running.shutdown.cancel();
    running.task.await.expect("it ends");
    api.report_intact("n2", "False", "while nobody was there to tell", 200);
    let _running = start(&api).await;
    a_second().await;
    assert_eq!(api.events()[1..], ["Warning RulesetRepaired NodeReport n2: while nobody was there to tell"]);

    api.report_intact("n1", "True", "nobody", 700);
    a_second().await;
    api.report_intact("n1", "False", "again", 900);
    a_second().await;
    assert_eq!(api.events()[2..], ["Normal Intact NodeReport n1: nobody", "Warning RulesetRepaired NodeReport n1: again"]);
}

/// A node that cannot enforce says so where its administrator looks, both at once and once each.
#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_enforce_is_told_once_at_its_report() {
    let api = FakeApi::new();
    let _running = start(&api).await;
    let (lacks, passes) = (("KernelSupported", "nft_fib is missing"), ("BridgeTrafficFiltered", "cni0 shows nothing"));
    let report = |status, since| {
        let [lacks, passes] = [lacks, passes].map(|(type_, message)| (type_, status, "Why", message));
        api.report_conditions("n1", &[lacks, passes], since);
    };
    report("Unknown", 50);
    a_second().await;
    assert_eq!(api.events(), [""; 0], "nothing is known yet");
    for _ in 0..3 {
        report("False", 100);
        a_second().await;
    }
    let mut told = api.events();
    told.sort();
    assert_eq!(told, ["Warning Why NodeReport n1: cni0 shows nothing", "Warning Why NodeReport n1: nft_fib is missing"]);
    report("True", 200);
    a_second().await;
    assert_eq!(api.events().iter().filter(|event| event.starts_with("Normal")).count(), 2, "and that it is over");
}

#[tokio::test(start_paused = true)]
async fn events_are_bounded_however_often_a_status_turns() {
    let api = shop(0..1);
    let _running = start(&api).await;
    a_second().await;
    let before = api.events().len();
    for generation in 2..=200 {
        api.group("web", "uid-web", generation, &[]);
        sleep(Duration::from_millis(500)).await;
        api.report("web", "uid-web", generation);
        sleep(Duration::from_millis(500)).await;
    }
    let turns = api.events().len() - before;
    // Ten at once, then one a minute for 199 s, of some 400 turns.
    assert!((10..=14).contains(&turns), "{turns} events");
}

#[tokio::test(start_paused = true)]
async fn only_a_leader_tells_and_a_server_that_takes_no_events_holds_nothing_up() {
    let api = shop(0..1);
    api.namespace(json!({api::LABEL_DEFAULT_GROUP: "base"}), false);
    let running = start_before_lists(&api, false);
    api.watched_by(&running.messages).await;
    sleep(Duration::from_secs(60)).await;
    assert!(api.requests().is_empty());
    api.down(true);
    running.leads.send_replace(true);
    a_second().await;
    api.down(false);
    sleep(Duration::from_secs(11)).await;
    assert!(settled(&api), "whatever was lost of events");
    assert_eq!(api.condition("web", "Accepted"), "True Accepted");
}

#[tokio::test(start_paused = true)]
async fn s24_limits_change_while_it_runs() {
    let api = FakeApi::new();
    api.group("web", "uid-web", 1, &["a", "b", "c"]);
    let _running = start(&api).await;
    a_second().await;
    assert_eq!(api.condition("web", "WithinQuota"), "True WithinQuota");
    api.limits(json!({"rulesPerDirection": "2"}));
    a_second().await;
    assert_eq!(api.condition("web", "WithinQuota"), "False RulesPerSecurityGroupLimitExceeded");
    assert_eq!(api.condition("web", "Ready"), "True Ready", "all of it is in force");
    let warned = "Warning RulesPerSecurityGroupLimitExceeded SecurityGroup web: the ingress (rule, peer) pairs weigh 3 ";
    assert!(api.events().iter().any(|event| event.starts_with(warned)), "{:#?}", api.events());
    api.limits(json!({"rulesPerDirection": "three"}));
    a_second().await;
    assert_eq!(api.condition("web", "WithinQuota"), "True WithinQuota", "what cannot be read is AWS's 50");
    api.limits(json!({"groupsPerNamespace": "0"}));
    a_second().await;
    assert_eq!(api.condition("web", "WithinQuota"), "False SecurityGroupLimitExceeded");
    api.remove("configmaps", "quotas");
    a_second().await;
    assert_eq!(api.condition("web", "WithinQuota"), "True WithinQuota");
}

/// P32: what a thousand nodes report is in the status as two numbers and three names, however many they are.
#[tokio::test(start_paused = true)]
async fn p32_a_thousand_nodes_report_and_the_status_stays_small_and_calm() {
    let api = shop(0..0);
    (0..1000).for_each(|n| api.pod_on(n, "web", &format!("n{n}")));
    let _running = start(&api).await;
    sleep(Duration::from_secs(5)).await;
    let size = |api: &FakeApi| api.get("securitygroups", "web").expect("it is there").to_string().len();
    let none = size(&api);
    api.requests();
    let mut largest = 0;
    for n in 0..1000 {
        api.report_of(&format!("n{n}"), "web", "uid-web", 1);
        sleep(Duration::from_millis(5)).await;
        largest = largest.max(size(&api));
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(api.condition("web", "Programmed"), "True Programmed");
    let requests = api.requests();
    let writes: Vec<&Seen> = of(&requests, "securitygroups").into_iter().filter(|request| request.name == "web").collect();
    assert!(writes.windows(2).all(|two| two[1].at - two[0].at >= STATUS_INTERVAL), "four a second at most");
    assert!(writes.len() <= 5 * 4 + 2, "{} writes of one status in 5 s", writes.len());
    assert!(largest < none + 64 && largest < 4096, "{none} bytes with no report, {largest} at most");
}
