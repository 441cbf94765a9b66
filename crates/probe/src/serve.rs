//! The side that answers.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

use crate::{sctp, stream};

/// What to listen on, in both families.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ports {
    /// TCP: says its host name, then returns lines.
    pub tcp: Vec<u16>,
    /// UDP: returns datagrams.
    pub udp: Vec<u16>,
    /// HTTP: 200 for every request.
    pub http: Vec<u16>,
    /// SCTP: INIT-ACK for these, ABORT for the others; none: no SCTP at all.
    pub sctp: Vec<u16>,
}

/// Listens on all of them and returns; threads answer for as long as the process lives.
pub fn start(ports: &Ports) -> io::Result<()> {
    let name = host_name();
    for port in &ports.tcp {
        let name = name.clone();
        accept(*port, move |stream| greet_and_echo(stream, &name))?;
    }
    for port in &ports.http {
        let name = name.clone();
        accept(*port, move |stream| answer_http(stream, &name))?;
    }
    for port in &ports.udp {
        let socket = bound(*port, Type::DGRAM)?;
        // Thousands a second shall wait here, not be lost, while this thread does not run. Only root may have more than the usual.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20));
        std::thread::spawn(move || echo_datagrams(&socket));
    }
    if !ports.sctp.is_empty() {
        sctp::listen(&ports.sctp)?;
    }
    Ok(())
}

/// What this machine, or pod, is called.
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// A socket for both families, or for IPv4 where there is no IPv6.
fn bound(port: u16, kind: Type) -> io::Result<Socket> {
    let dual = Socket::new(Domain::IPV6, kind, None).and_then(|socket| {
        socket.set_only_v6(false)?;
        socket.set_reuse_address(kind == Type::STREAM)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
        Ok(socket)
    });
    match dual {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            let socket = Socket::new(Domain::IPV4, kind, None)?;
            socket.set_reuse_address(kind == Type::STREAM)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
            Ok(socket)
        }
        other => other,
    }
    .map_err(|error| io::Error::new(error.kind(), format!("port {port}: {error}")))
}

fn accept(port: u16, serve: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static) -> io::Result<()> {
    let socket = bound(port, Type::STREAM)?;
    socket.listen(4096)?;
    let listener = TcpListener::from(socket);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            match stream {
                // A client that goes away is its own affair.
                Ok(stream) => {
                    let serve = serve.clone();
                    let served = std::thread::Builder::new().stack_size(64 * 1024).spawn(move || serve(stream));
                    if served.is_err() {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                }
                // Out of file descriptors, for one: the listener itself is well.
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    });
    Ok(())
}

fn greet_and_echo(mut stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(format!("{name}\n").as_bytes())?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        stream.write_all(&line)?;
        line.clear();
    }
    Ok(())
}

fn answer_http(mut stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let body = format!("{name}\n");
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

/// Returns datagrams, from the address that they were sent to: a node has several.
fn echo_datagrams(socket: &Socket) {
    // Where IPv6 is missing this is an IPv4 socket, and the kernel chooses the address.
    let told = setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true).is_ok();
    let mut buffer = [0; 2048];
    loop {
        let mut control = cmsg_space!(nix::libc::in6_pktinfo);
        let mut vector = [io::IoSliceMut::new(&mut buffer)];
        let Ok(received) = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut vector, told.then_some(&mut control), MsgFlags::empty())
        else {
            continue;
        };
        let from = received.address;
        let to = received.cmsgs().ok().into_iter().flatten().find_map(|message| match message {
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(info),
            _ => None,
        });
        let length = received.bytes;
        let answer = stream::stamp(&buffer[..length]);
        let messages: Vec<ControlMessage<'_>> = to.iter().map(ControlMessage::Ipv6PacketInfo).collect();
        // A reply that a rule forbids is the client's to miss.
        let _ = sendmsg(socket.as_raw_fd(), &[io::IoSlice::new(&answer)], &messages, MsgFlags::empty(), from.as_ref());
    }
}
