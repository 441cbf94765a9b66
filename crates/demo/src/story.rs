//! What changes while pods run: a rule, a replica, a label.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::Cluster;
use probe::{Probe, Target};

use crate::ledger::Ledger;
use crate::shop::{Shop, ShopPod};

const PROMISE: Duration = Duration::from_secs(2);

fn pings(shop: &Shop, client: usize, to: IpAddr) -> Result<bool> {
    let own = shop.client(client)?.into_iter().find(|own| own.is_ipv4() == to.is_ipv4()).context("a client of that family")?;
    let probe = Probe::Ping { target: Target::new(to).from(own).within_ms(700) };
    Ok(shop.probe_from_world(&[probe])?.iter().all(|outcome| outcome.ok))
}

fn patch_web(cluster: &Cluster, patch: &str) -> Result<()> {
    cluster.kubectl(&["patch", "sg/web", "--namespace=shop", "--type=json", "--patch", patch])?;
    cluster.kubectl(&["wait", "--for=condition=Programmed", "sg/web", "--namespace=shop", "--timeout=20s"])?;
    Ok(())
}

/// A ping that times out, a rule is added, the same ping answers; the rule goes, and it times out again.
pub fn ping_story(shop: &Shop, ledger: &mut Ledger) -> Result<()> {
    let web: Vec<IpAddr> = shop.tier("web").filter_map(|pod| pod.address(true).ok()).collect();
    let office = shop.client(0)?[0];
    for &address in &web {
        ledger.show(!pings(shop, 0, address)?, format!("ping {address} from {office} times out"));
    }
    patch_web(
        shop.cluster,
        &format!(r#"[{{"op":"add","path":"/spec/ingress/-","value":{{"type":"AllICMP","from":[{{"cidr":"{office}/32"}}]}}}}]"#),
    )?;
    for &address in &web {
        ledger.show(pings(shop, 0, address)?, format!("with a rule AllICMP from {office}/32, the same ping to {address} answers"));
        ledger.show(!pings(shop, 1, address)?, format!("from another address, it still times out at {address}"));
    }
    patch_web(shop.cluster, r#"[{"op":"remove","path":"/spec/ingress/2"}]"#)?;
    for &address in &web {
        ledger.show(!pings(shop, 0, address)?, format!("the rule removed, ping {address} times out again"));
    }
    Ok(())
}

/// Polls until something is so, for as long as was promised and longer; says how long it took at most, the last try included.
fn within(mut so: impl FnMut() -> Result<bool>) -> Result<Option<Duration>> {
    let start = Instant::now();
    while start.elapsed() < PROMISE * 5 {
        if so()? {
            return Ok(Some(start.elapsed()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(None)
}

fn kept(took: Option<Duration>) -> (bool, String) {
    (took.is_some_and(|took| took <= PROMISE), took.map_or("never".into(), |took| format!("within {} ms", took.as_millis())))
}

/// One more web pod: it reaches app with nobody doing anything.
pub fn scale_story(shop: &Shop, ledger: &mut Ledger) -> Result<()> {
    let before: Vec<String> = shop.tier("web").map(|pod| pod.name.clone()).collect();
    shop.cluster.kubectl(&["scale", "deployment/web", "--namespace=shop", &format!("--replicas={}", before.len() + 1)])?;
    let deadline = Instant::now() + Duration::from_secs(30);
    let (now, new) = loop {
        let now = Shop::look(shop.cluster)?;
        let new = now.tier("web").find(|pod| !before.contains(&pod.name)).cloned();
        if let Some(new) = new {
            break (now, new);
        }
        anyhow::ensure!(Instant::now() < deadline, "no new web pod within 30 s");
        std::thread::sleep(Duration::from_millis(20));
    };
    // The container's own start is not ours to hurry: only what runs can be asked.
    while now.probe_from(&new, &[]).is_err() {
        anyhow::ensure!(Instant::now() < deadline, "the new web pod does not run within 30 s");
        std::thread::sleep(Duration::from_millis(20));
    }
    for app in now.tier("app") {
        for &address in &app.addresses {
            let took = within(|| now.reaches(&new, address, 8080))?;
            let (held, when) = kept(took);
            ledger.show(held, format!("the new pod {} reaches {} at {address} port 8080 ({when})", new.name, app.name));
        }
    }
    Ok(())
}

fn label(cluster: &Cluster, pod: &ShopPod, label: &str) -> Result<()> {
    cluster.kubectl(&["label", "pod", &pod.name, "--namespace=shop", "--overwrite", label])?;
    Ok(())
}

/// An app pod that gets another label loses the database at once, and has it again when the label comes back.
pub fn relabel_story(shop: &Shop, ledger: &mut Ledger) -> Result<()> {
    let (app, db) = (shop.first("app")?, shop.first("db")?);
    for &address in &db.addresses {
        ledger.show(shop.reaches(app, address, 5432)?, format!("{} reaches {} at {address} port 5432", app.name, db.name));
    }
    label(shop.cluster, app, "tier=none")?;
    for &address in &db.addresses {
        let (held, when) = kept(within(|| Ok(!shop.reaches(app, address, 5432)?))?);
        ledger.show(held, format!("with tier=none, it does not reach {address} ({when})"));
    }
    label(shop.cluster, app, "tier=app")?;
    for &address in &db.addresses {
        let (held, when) = kept(within(|| shop.reaches(app, address, 5432))?);
        ledger.show(held, format!("with tier=app again, it reaches {address} ({when})"));
    }
    Ok(())
}
