//! The program `probe`: see the library.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use probe::raw::{ICMP, ICMP6, Listener, SCTP};
use probe::serve::Ports;
use probe::{Probe, Stream, Target, init, lookup, serve, stream, tcp};
use serde::Serialize;

/// Listens, connects, pings, and reports JSON: one object a line.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct To {
    address: IpAddr,
    /// Our own address, where it matters which
    #[arg(long)]
    source: Option<IpAddr>,
    /// How long to wait for an answer
    #[arg(long, default_value_t = 1000)]
    timeout_ms: u64,
}

impl From<To> for Target {
    fn from(to: To) -> Target {
        Target { address: to.address, source: to.source, timeout_ms: to.timeout_ms }
    }
}

#[derive(Subcommand)]
enum Command {
    /// Answers on ports, in both families, until TERM
    Serve {
        #[arg(long, value_delimiter = ',')]
        tcp: Vec<u16>,
        #[arg(long, value_delimiter = ',')]
        udp: Vec<u16>,
        /// Answers 200 to every request
        #[arg(long, value_delimiter = ',')]
        http: Vec<u16>,
        /// INIT-ACK on these ports, ABORT on others
        #[arg(long, value_delimiter = ',')]
        sctp: Vec<u16>,
    },
    /// Does nothing until TERM, as the first process of a pod
    Pause,
    /// Connects
    Tcp {
        #[command(flatten)]
        to: To,
        port: u16,
        /// Keeps the connection and exchanges a line every --interval-ms for --seconds
        #[arg(long)]
        hold: bool,
        #[arg(long, default_value_t = 100, requires = "hold")]
        interval_ms: u64,
        #[arg(long, default_value_t = 5.0, requires = "hold")]
        seconds: f64,
        /// Sends so many bytes and reads them back
        #[arg(long, conflicts_with = "hold")]
        bytes: Option<usize>,
    },
    /// Sends a datagram and waits for it to come back
    Udp {
        #[command(flatten)]
        to: To,
        port: u16,
    },
    /// Asks two questions at the same moment through one new socket, --count times, as a resolver does for A and AAAA
    Lookups {
        #[command(flatten)]
        to: To,
        port: u16,
        #[arg(long, default_value_t = 10_000)]
        count: u32,
        /// How many do so at the same time
        #[arg(long, default_value_t = 8)]
        askers: u32,
    },
    /// Sends an echo request
    Ping {
        #[command(flatten)]
        to: To,
    },
    /// Sends an ICMP message
    Icmp {
        #[command(flatten)]
        to: To,
        #[arg(name = "type")]
        kind: u8,
        code: u8,
    },
    /// Sends an SCTP INIT
    Sctp {
        #[command(flatten)]
        to: To,
        port: u16,
    },
    /// Sends a packet of an IP protocol that nobody speaks
    RawIp {
        #[command(flatten)]
        to: To,
        protocol: u8,
    },
    /// Does a JSON list of probes at once (from standard input, if not given) and prints one list of outcomes
    Many { probes: Option<String> },
    /// Begins a new flow --rate times a second for --seconds
    Stream {
        #[command(flatten)]
        to: To,
        port: u16,
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        rate: u32,
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
        /// TCP handshakes instead of datagrams
        #[arg(long, conflicts_with = "udp")]
        tcp_connect: bool,
        /// Datagrams, as without this
        #[arg(long)]
        udp: bool,
    },
    /// Prints packets of a protocol that arrive within --seconds
    Arrivals {
        /// icmp (for both families), sctp, or a number
        #[arg(value_parser = protocols)]
        protocols: Protocols,
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
    },
    /// Accepts on standard input, a listening socket, and carries connections to another address
    Forward { to: SocketAddr },
}

/// IP protocols by family: IPv4, IPv6.
#[derive(Clone, Copy)]
struct Protocols(u8, u8);

fn protocols(text: &str) -> Result<Protocols, String> {
    match text {
        "icmp" => Ok(Protocols(ICMP, ICMP6)),
        "sctp" => Ok(Protocols(SCTP, SCTP)),
        number => {
            number.parse().map(|protocol| Protocols(protocol, protocol)).map_err(|_| "icmp, sctp, or a number from 0 to 255".to_owned())
        }
    }
}

fn main() -> io::Result<()> {
    match Arguments::parse().command {
        Command::Serve { tcp, udp, http, sctp } => {
            let signals = init::Signals::block()?;
            serve::start(&Ports { tcp, udp, http, sctp })?;
            signals.wait()
        }
        Command::Pause => init::Signals::block()?.wait(),
        Command::Tcp { to, port, hold, interval_ms, seconds, bytes } => {
            if let Some(bytes) = bytes {
                return print(&tcp::transfer(&to.into(), port, bytes));
            }
            if hold {
                return print(&tcp::hold(&to.into(), port, duration(seconds)?, Duration::from_millis(interval_ms)));
            }
            one(Probe::Tcp { target: to.into(), port })
        }
        Command::Udp { to, port } => one(Probe::Udp { target: to.into(), port }),
        Command::Lookups { to, port, count, askers } => print(&lookup::lookups(&to.into(), port, count, askers)?),
        Command::Ping { to } => one(Probe::Ping { target: to.into() }),
        Command::Icmp { to, kind, code } => one(Probe::Icmp { target: to.into(), kind, code }),
        Command::Sctp { to, port } => one(Probe::Sctp { target: to.into(), port }),
        Command::RawIp { to, protocol } => one(Probe::RawIp { target: to.into(), protocol }),
        Command::Many { probes } => {
            let text = match probes {
                Some(text) => text,
                None => {
                    let mut text = String::new();
                    io::stdin().read_to_string(&mut text)?;
                    text
                }
            };
            print(&probe::run_all(&serde_json::from_str::<Vec<Probe>>(&text)?))
        }
        Command::Stream { to, port, rate, seconds, tcp_connect, udp: _ } => {
            let kind = if tcp_connect { stream::Kind::TcpConnect } else { stream::Kind::Udp };
            let stream = Stream { target: to.into(), port, kind, rate, duration: duration(seconds)? };
            print(&stream.run(&AtomicBool::new(false))?)
        }
        Command::Arrivals { protocols, seconds } => arrivals(protocols, duration(seconds)?),
        Command::Forward { to } => probe::forward::forward(to),
    }
}

fn one(probe: Probe) -> io::Result<()> {
    print(&probe.run())
}

fn print(value: &impl Serialize) -> io::Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}

fn duration(seconds: f64) -> io::Result<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(io::Error::other)
}

/// Both families, each in a thread of its own, printed as they come.
fn arrivals(protocols: Protocols, duration: Duration) -> io::Result<()> {
    let listeners = [Listener::new(protocols.0, true)?, Listener::new(protocols.1, false)?];
    let deadline = Instant::now() + duration;
    let listen = |listener: &Listener| -> io::Result<()> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            if let Some(arrival) = listener.next(left)? {
                print(&arrival)?;
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = listeners.each_ref().map(|listener| scope.spawn(move || listen(listener)));
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
