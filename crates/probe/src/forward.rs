//! Connections to one listener, carried to another address: how the host reaches a cluster inside its namespaces.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

/// Accepts on the listening socket that is our standard input, which may belong to another network namespace, and connects each to `to`.
/// Returns only with an error.
pub fn forward(to: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    loop {
        match listener.accept() {
            Ok((client, _)) => {
                std::thread::spawn(move || carry(client, to));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

fn carry(client: TcpStream, to: SocketAddr) {
    // An end that does not answer looks to the client like one that hangs up, and then it tries again.
    let Ok(server) = TcpStream::connect_timeout(&to, Duration::from_secs(5)) else { return };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else { return };
    let back = std::thread::spawn(move || copy(&server_too, &client_too));
    copy(&client, &server);
    let _ = back.join();
}

/// Copies until the end, and passes the end on.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let ended_well = io::copy(&mut from, &mut to).is_ok();
    // A broken side breaks the other too; a finished one may still be answered.
    let _ = to.shutdown(if ended_well { Shutdown::Write } else { Shutdown::Both });
}
