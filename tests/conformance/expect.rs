//! What must be allowed and denied, in lines.

use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use policy::model::Transport;

use super::data::{Probe, transport};

/// `deny x/* y/a -> */b : tcp 80, udp`
#[derive(Clone, Debug)]
pub struct Line {
    /// As it is written.
    pub text: String,
    /// Else it denies.
    pub allows: bool,
    from: Vec<Pods>,
    to: Vec<Pods>,
    /// Nothing: all.
    traffic: Vec<(Transport, Option<u16>)>,
}

/// `*`, `x/*`, `*/a` or `x/a`.
#[derive(Clone, Debug)]
struct Pods {
    namespace: Option<String>,
    name: Option<String>,
}

impl Pods {
    fn include(&self, pod: &str) -> bool {
        let (namespace, name) = pod.split_once('/').unwrap_or((pod, ""));
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace) && self.name.as_deref().is_none_or(|wanted| wanted == name)
    }
}

impl FromStr for Pods {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Pods> {
        let (namespace, name) =
            if word == "*" { ("*", "*") } else { word.split_once('/').with_context(|| format!("`{word}` is no pod"))? };
        let part = |text: &str| (text != "*").then(|| text.to_owned());
        Ok(Pods { namespace: part(namespace), name: part(name) })
    }
}

impl FromStr for Line {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Line> {
        let (verb, rest) = text.trim().split_once(' ').with_context(|| format!("`{text}` is too short"))?;
        let allows = match verb {
            "allow" => true,
            "deny" => false,
            _ => bail!("`{text}` neither allows nor denies"),
        };
        let (ends, traffic) = rest.split_once(" : ").map_or((rest, None), |(ends, traffic)| (ends, Some(traffic)));
        let (from, to) = ends.split_once("->").with_context(|| format!("`{text}` has no ->"))?;
        let pods = |words: &str| words.split_whitespace().map(str::parse).collect::<Result<Vec<Pods>>>();
        let (from, to) = (pods(from)?, pods(to)?);
        ensure!(!from.is_empty() && !to.is_empty(), "`{text}` speaks of nobody");
        let kind = |words: &str| match words.trim().split_once(' ') {
            Some((protocol, port)) => Ok((transport(protocol)?, Some(port.parse()?))),
            None => Ok((transport(words.trim())?, None)),
        };
        let traffic = traffic.map_or(Ok(Vec::new()), |traffic| traffic.split(',').map(kind).collect::<Result<Vec<_>>>())?;
        Ok(Line { text: text.into(), allows, from, to, traffic })
    }
}

impl Line {
    /// Whether it speaks of this.
    pub fn speaks_of(&self, from: &str, to: &str, probe: Probe) -> bool {
        let traffic =
            |(protocol, port): &(Transport, Option<u16>)| *protocol == probe.protocol && port.is_none_or(|port| port == probe.port);
        self.from.iter().any(|pods| pods.include(from))
            && self.to.iter().any(|pods| pods.include(to))
            && (self.traffic.is_empty() || self.traffic.iter().any(traffic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_speaks_of_what_it_says() {
        let line: Line = "deny x/* y/a -> */b : tcp 80, udp".parse().unwrap();
        let said = |from, to, probe: &str| line.speaks_of(from, to, probe.parse().unwrap());
        assert!(!line.allows);
        assert!(said("x/a", "y/b", "tcp 80") && said("y/a", "x/b", "udp 53"));
        assert!(
            !said("y/c", "x/b", "tcp 80")
                && !said("x/a", "x/c", "tcp 80")
                && !said("x/a", "x/b", "tcp 81")
                && !said("x/a", "x/b", "sctp 80")
        );
        for wrong in ["", "deny x/a", "forbid * -> *", "deny -> x/a", "deny x -> x/a", "deny * -> * : icmp", "deny * -> * : tcp http"] {
            assert!(wrong.parse::<Line>().is_err(), "{wrong}");
        }
    }
}
