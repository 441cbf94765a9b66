//! Who reaches whom, on which port: every pair of pods, same node and across nodes, both families, and from outside.

use std::net::IpAddr;

use anyhow::Result;
use probe::{Probe, Target};

use crate::ledger::Ledger;
use crate::shop::{PORTS, Shop, ShopPod, TIERS};

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// A pod of this tier.
    Tier(&'a str),
    /// The one outside address that the bastion knows.
    Office,
    /// Another outside address.
    Elsewhere,
}

/// What the article says: whether a connection is allowed with the sample's groups in force.
pub fn expected(from: Place, to: &str, port: u16, v4: bool) -> bool {
    match (to, port) {
        ("web", 80 | 443) => true,
        ("app", 8080) => from == Place::Tier("web"),
        ("db", 5432) => matches!(from, Place::Tier("web" | "app")),
        ("app" | "db", 22) => from == Place::Tier("bastion"),
        // One /32: an IPv4 address and nothing else.
        ("bastion", 22) => from == Place::Office && v4,
        _ => false,
    }
}

/// One tried connection.
struct Cell<'a> {
    from: Place<'a>,
    source: String,
    to: &'a ShopPod,
    address: IpAddr,
    port: u16,
    reached: bool,
}

/// All connections, tried.
pub struct Matrix<'a> {
    cells: Vec<Cell<'a>>,
}

impl<'a> Matrix<'a> {
    /// Tries every port of every pod from every pod and from two places outside, all at once.
    pub fn measure(shop: &'a Shop<'a>) -> Result<Matrix<'a>> {
        let targets: Vec<(&ShopPod, IpAddr, u16)> = shop
            .pods
            .iter()
            .flat_map(|pod| pod.addresses.iter().flat_map(move |&address| PORTS.map(|port| (pod, address, port))))
            .collect();
        let tcp = |address, port, source: Option<IpAddr>| {
            let target = Target::new(address).within_ms(700);
            Probe::Tcp { target: source.map_or(target, |source| target.from(source)), port }
        };
        let mut cells = Vec::new();
        std::thread::scope(|scope| -> Result<()> {
            let mut rows = Vec::new();
            for source in &shop.pods {
                let targets: Vec<_> = targets.iter().filter(|(pod, ..)| *pod != source).copied().collect();
                rows.push(scope.spawn(move || -> Result<Vec<Cell>> {
                    let probes: Vec<Probe> = targets.iter().map(|&(_, address, port)| tcp(address, port, None)).collect();
                    let from = Place::Tier(&source.tier);
                    Ok(fill(from, source.name.clone(), &targets, shop.probe_from(source, &probes)?))
                }));
            }
            for (from, client) in [(Place::Office, 0), (Place::Elsewhere, 1)] {
                let sources = shop.client(client)?;
                let targets = targets.clone();
                rows.push(scope.spawn(move || -> Result<Vec<Cell>> {
                    let own = |address: IpAddr| sources.iter().copied().find(|own| own.is_ipv4() == address.is_ipv4());
                    let probes: Vec<Probe> = targets.iter().map(|&(_, address, port)| tcp(address, port, own(address))).collect();
                    Ok(fill(from, format!("{from:?}"), &targets, shop.probe_from_world(&probes)?))
                }));
            }
            for row in rows {
                cells.extend(row.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok(())
        })?;
        Ok(Matrix { cells })
    }

    /// Compares every connection with what should be.
    pub fn check(&self, ledger: &mut Ledger, wanted: impl Fn(Place, &str, u16, bool) -> bool) {
        for cell in &self.cells {
            let wanted = wanted(cell.from, &cell.to.tier, cell.port, cell.address.is_ipv4());
            let what = if wanted { "should reach" } else { "should not reach" };
            ledger
                .expect(cell.reached == wanted, format!("{} {what} {} at {} port {}", cell.source, cell.to.name, cell.address, cell.port));
        }
    }

    /// Prints who reaches whom: the open ports of each tier, `.` where there are none.
    pub fn print(&self) {
        println!("  {:<22}{}", "from \\ to", TIERS.map(|tier| format!("{tier:<28}")).concat());
        for from in TIERS.map(Place::Tier).into_iter().chain([Place::Office, Place::Elsewhere]) {
            let name = match from {
                Place::Tier(tier) => tier.to_owned(),
                Place::Office => "203.0.113.10 (office)".to_owned(),
                Place::Elsewhere => "203.0.113.11".to_owned(),
            };
            let row = TIERS.map(|tier| format!("{:<28}", self.ports(from, tier)));
            println!("  {name:<22}{}", row.concat().trim_end());
        }
    }

    /// The ports of a tier that are reached from a place, by both families on all nodes, or marked with what reaches them.
    fn ports(&self, from: Place, to: &str) -> String {
        let mut open = Vec::new();
        for port in PORTS {
            let tried = |v4: bool| {
                self.cells.iter().filter(move |c| c.from == from && c.to.tier == to && c.port == port && c.address.is_ipv4() == v4)
            };
            let all = |v4: bool| tried(v4).all(|cell| cell.reached);
            let any = |v4: bool| tried(v4).any(|cell| cell.reached);
            open.push(match (all(true), all(false), any(true) || any(false)) {
                (true, true, _) => port.to_string(),
                (_, _, false) => continue,
                (true, false, _) if !any(false) => format!("{port}(v4)"),
                (false, true, _) if !any(true) => format!("{port}(v6)"),
                _ => format!("{port}(some)"),
            });
        }
        if open.is_empty() { ".".into() } else { open.join(" ") }
    }

    /// How many connections were tried.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }
}

fn fill<'a>(from: Place<'a>, source: String, targets: &[(&'a ShopPod, IpAddr, u16)], outcomes: Vec<probe::Outcome>) -> Vec<Cell<'a>> {
    let cell = |(&(to, address, port), outcome): (&(&'a ShopPod, IpAddr, u16), probe::Outcome)| Cell {
        from,
        source: source.clone(),
        to,
        address,
        port,
        reached: outcome.ok,
    };
    targets.iter().zip(outcomes).map(cell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_article_in_a_few_rows() {
        assert!(expected(Place::Elsewhere, "web", 443, false));
        assert!(!expected(Place::Elsewhere, "app", 8080, true));
        assert!(expected(Place::Tier("web"), "db", 5432, true));
        assert!(!expected(Place::Tier("bastion"), "db", 5432, true));
        assert!(expected(Place::Office, "bastion", 22, true) && !expected(Place::Office, "bastion", 22, false));
    }
}
