//! Presets: names for kinds of traffic, as in the AWS console (S15).

/// What a preset stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresetTraffic {
    /// Everything.
    All,
    /// A protocol of the given IANA number and, where it has ports, one of them (none: every port).
    Protocol {
        /// IANA protocol number.
        number: u8,
        /// Destination port; none: every port, or the protocol has none.
        port: Option<u16>,
    },
}

/// A named kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// As written in `type`.
    pub name: &'static str,
    /// What it stands for.
    pub traffic: PresetTraffic,
}

const fn all(name: &'static str) -> Preset {
    Preset { name, traffic: PresetTraffic::All }
}
const fn protocol(name: &'static str, number: u8) -> Preset {
    Preset { name, traffic: PresetTraffic::Protocol { number, port: None } }
}
const fn tcp(name: &'static str, port: u16) -> Preset {
    Preset { name, traffic: PresetTraffic::Protocol { number: 6, port: Some(port) } }
}
const fn udp(name: &'static str, port: u16) -> Preset {
    Preset { name, traffic: PresetTraffic::Protocol { number: 17, port: Some(port) } }
}

impl Preset {
    /// Every preset, in the order of the documentation.
    pub const ALL: &'static [Preset] = &[
        all("AllTraffic"),
        protocol("AllTCP", 6),
        protocol("AllUDP", 17),
        protocol("AllICMP", 1),
        protocol("AllICMPv6", 58),
        tcp("SSH", 22),
        tcp("Telnet", 23),
        tcp("SMTP", 25),
        udp("DNS-UDP", 53),
        tcp("DNS-TCP", 53),
        tcp("HTTP", 80),
        tcp("POP3", 110),
        tcp("IMAP", 143),
        tcp("LDAP", 389),
        tcp("HTTPS", 443),
        tcp("SMB", 445),
        tcp("SMTPS", 465),
        tcp("IMAPS", 993),
        tcp("POP3S", 995),
        tcp("MSSQL", 1433),
        tcp("Oracle", 1521),
        tcp("NFS", 2049),
        tcp("MySQL", 3306),
        tcp("RDP", 3389),
        tcp("Redshift", 5439),
        tcp("PostgreSQL", 5432),
        tcp("WinRM-HTTP", 5985),
        tcp("WinRM-HTTPS", 5986),
    ];

    /// The names of all presets, in the order of the documentation.
    pub fn names() -> Vec<&'static str> {
        Preset::ALL.iter().map(|preset| preset.name).collect()
    }

    /// The preset of that name, exactly so written.
    pub fn named(name: &str) -> Option<Preset> {
        Preset::ALL.iter().copied().find(|preset| preset.name == name)
    }
}
