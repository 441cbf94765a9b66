//! What is in use stays, and goes when it is not.

use serde_json::json;

use super::*;

const IN_USE: &str = api::FINALIZER_IN_USE;

async fn a_second() {
    sleep(Duration::from_secs(1)).await;
}

fn held(api: &FakeApi, name: &str) -> bool {
    api.finalizers("securitygroups", name).iter().any(|finalizer| finalizer == IN_USE)
}

/// What `Deletable` says of a group, if anything.
fn deletable(api: &FakeApi, name: &str) -> Option<String> {
    let group = api.get("securitygroups", name).expect("it is there");
    let conditions = group["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == "Deletable")?;
    assert_eq!((&found["status"], &found["reason"]), (&json!("False"), &json!("DependencyViolation")));
    found["message"].as_str().map(str::to_string)
}

#[tokio::test(start_paused = true)]
async fn a_group_is_held_while_something_names_it_and_stays_in_force() {
    let api = shop(0..1);
    api.group("alone", "uid-alone", 1, &["alone"]);
    let _running = start(&api).await;
    a_second().await;
    assert!(held(&api, "web") && !held(&api, "db") && !held(&api, "alone"), "web is attached and named by db");
    assert_eq!(deletable(&api, "web"), None, "nobody wants to delete it");

    api.delete("securitygroups", "alone");
    assert!(api.get("securitygroups", "alone").is_none(), "an unused group goes at once");

    api.delete("securitygroups", "web");
    a_second().await;
    let message =
        "It is named by 2, and stays in force until it is by none: Attachment shop/web, SecurityGroup shop/db (ingress[0].from[0])";
    assert_eq!(deletable(&api, "web").as_deref(), Some(message));
    assert_eq!(published(&api).0.len(), 2, "its members are still published");

    api.remove("attachments", "web");
    a_second().await;
    assert_eq!(
        deletable(&api, "web").as_deref(),
        Some("It is named by 1, and stays in force until it is by none: SecurityGroup shop/db (ingress[0].from[0])")
    );
    api.group("db", "uid-db", 2, &[]);
    a_second().await;
    assert!(api.get("securitygroups", "web").is_none(), "the last that named it is gone");
    assert!(settled(&api));
}

#[tokio::test(start_paused = true)]
async fn two_groups_that_name_each_other_go_together() {
    let api = FakeApi::new();
    api.group("a", "uid-a", 1, &["b"]);
    api.group("b", "uid-b", 1, &["a"]);
    let _running = start(&api).await;
    a_second().await;
    assert!(held(&api, "a") && held(&api, "b"));
    api.delete("securitygroups", "a");
    a_second().await;
    assert!(deletable(&api, "a").is_some());
    api.delete("securitygroups", "b");
    a_second().await;
    assert!(api.get("securitygroups", "a").is_none() && api.get("securitygroups", "b").is_none());
}

#[tokio::test(start_paused = true)]
async fn s3_a_default_group_is_held_and_a_namespace_that_ends_lets_everything_go() {
    let api = shop(0..1);
    api.group("base", "uid-base", 1, &[]);
    api.namespace(json!({api::LABEL_DEFAULT_GROUP: "base"}), false);
    let _running = start(&api).await;
    a_second().await;
    assert!(held(&api, "base") && held(&api, "web"));
    api.delete("securitygroups", "base");
    a_second().await;
    assert!(deletable(&api, "base").expect("blocked").contains("Namespace shop (securitygroups.dev/default-group)"));

    api.namespace(json!({api::LABEL_DEFAULT_GROUP: "base"}), true);
    a_second().await;
    assert!(api.get("securitygroups", "base").is_none() && !held(&api, "web"));
    for name in ["web", "db"] {
        api.delete("securitygroups", name);
        assert!(api.get("securitygroups", name).is_none(), "{name} goes at once");
    }
}

#[tokio::test(start_paused = true)]
async fn s21_a_prefix_list_is_held_while_a_rule_names_it() {
    let api = FakeApi::new();
    api.prefix_list("offices", 5);
    api.prefix_list("unused", 5);
    let spec = json!({"ingress": [{"type": "SSH", "from": [{"prefixList": {"name": "offices"}}]}]});
    let metadata = json!({"name": "web", "uid": "uid-web", "generation": 1});
    api.put(
        "securitygroups",
        json!({"apiVersion": "securitygroups.dev/v1alpha1", "kind": "SecurityGroup", "metadata": metadata, "spec": spec}),
    );
    let _running = start(&api).await;
    a_second().await;
    assert_eq!(api.finalizers("prefixlists", "offices"), [IN_USE]);
    assert!(api.finalizers("prefixlists", "unused").is_empty());
    api.delete("prefixlists", "offices");
    a_second().await;
    let status = api.get("prefixlists", "offices").expect("it is held")["status"].to_string();
    assert!(status.contains("DependencyViolation") && status.contains("SecurityGroup shop/web (ingress[0].from[0])"), "{status}");
    let warned = "Warning DependencyViolation PrefixList offices: It is named by 1";
    assert!(api.events().iter().any(|event| event.starts_with(warned)), "{:#?}", api.events());
    api.remove("securitygroups", "web");
    a_second().await;
    assert!(api.get("prefixlists", "offices").is_none());
}

#[tokio::test(start_paused = true)]
async fn others_finalizers_are_kept_whoever_writes_at_the_same_time() {
    let api = shop(0..1);
    let foreign = |name: &str| {
        let mut group = api.get("securitygroups", "web").expect("it is there");
        let mut finalizers = api.finalizers("securitygroups", "web");
        finalizers.push(name.into());
        group["metadata"]["finalizers"] = json!(finalizers);
        api.put("securitygroups", group);
    };
    foreign("example.org/one");
    api.latency(Duration::from_millis(10));
    let _running = start(&api).await;
    // In between its reading of the object and its writing.
    let mut requests = Vec::new();
    while !requests.iter().any(|seen: &Seen| seen.name == "web" && seen.plural == "securitygroups" && seen.body.is_null()) {
        sleep(Duration::from_millis(1)).await;
        requests.extend(api.requests());
    }
    foreign("example.org/two");
    a_second().await;
    assert_eq!(api.finalizers("securitygroups", "web"), ["example.org/one", "example.org/two", IN_USE]);
    let requests = api.requests();
    assert!(of(&requests, "securitygroups").iter().any(|request| request.code == 409), "the test met the moment: {requests:?}");

    api.delete("securitygroups", "web");
    api.remove("attachments", "web");
    api.group("db", "uid-db", 2, &[]);
    a_second().await;
    assert_eq!(api.finalizers("securitygroups", "web"), ["example.org/one", "example.org/two"], "ours is gone, theirs are theirs");
}

#[tokio::test(start_paused = true)]
async fn what_is_going_already_is_not_held_by_what_comes_later() {
    let api = FakeApi::new();
    api.group("web", "uid-web", 1, &[]);
    let mut web = api.get("securitygroups", "web").expect("it is there");
    web["metadata"]["finalizers"] = json!(["example.org/one"]);
    api.put("securitygroups", web);
    let _running = start(&api).await;
    a_second().await;
    api.delete("securitygroups", "web");
    api.attach("web");
    a_second().await;
    api.requests();
    sleep(Duration::from_secs(60)).await;
    assert!(api.requests().is_empty(), "the server would refuse a new finalizer, and is not asked");
    assert!(deletable(&api, "web").is_some());
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_write_the_next_run_holds_and_lets_go() {
    for writes in 0..14 {
        let api = shop(0..40);
        let running = start(&api).await;
        api.until_requests(writes).await;
        running.task.abort();
        let _ = running.task.await;
        // Unheld it is gone by then, and what named it is closed or stale; held it stays.
        let was_held = held(&api, "web");
        api.delete("securitygroups", "web");
        let running = start(&api).await;
        api.until_requests(writes).await;
        running.task.abort();
        let _ = running.task.await;
        let running = start(&api).await;
        sleep(Duration::from_secs(3)).await;
        assert_eq!(api.get("securitygroups", "web").is_some(), was_held, "killed after {writes}");
        assert!(!was_held || deletable(&api, "web").is_some());
        api.remove("attachments", "web");
        api.remove("securitygroups", "db");
        sleep(Duration::from_secs(3)).await;
        assert!(api.get("securitygroups", "web").is_none(), "killed after {writes}");
        running.task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_finalizers_keeps_no_status_from_being_written() {
    let api = shop(0..1);
    api.refuse_finalizers(true);
    let _running = start(&api).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(api.condition("web", "Accepted"), "True Accepted");
    api.requests();
    sleep(Duration::from_secs(600)).await;
    assert!(api.requests().len() < 200, "asked less and less");
    api.refuse_finalizers(false);
    sleep(Duration::from_secs(11)).await;
    assert!(held(&api, "web"));
}
