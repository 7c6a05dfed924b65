//! A loopback address that leads to another one and can be taken away: connections to it are then
//! refused, and those that were open are cut.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// On threads of its own, so that it also works while a case waits for a server to start.
#[derive(Debug)]
pub(crate) struct Relay {
    /// Where it listens, also while it does not.
    pub(crate) address: SocketAddr,
    target: SocketAddr,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    stop: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    acceptor: JoinHandle<()>,
}

impl Relay {
    /// Listens on a free port.
    pub(crate) fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let running = Some(Running::start(listener, target));
        Self {
            address,
            target,
            running,
        }
    }

    /// From now on connections are refused; open ones are cut.
    pub(crate) fn stop(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        running.stop.store(true, Ordering::Relaxed);
        running.acceptor.join().expect("it does not panic");
        for socket in running.open.lock().expect("nobody panics").drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Listens again, on the same port.
    pub(crate) fn start(&mut self) {
        let listener = TcpListener::bind(self.address).expect("the port is still free");
        self.running = Some(Running::start(listener, self.target));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Running {
    fn start(listener: TcpListener, target: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let open = Arc::new(Mutex::new(Vec::new()));
        listener.set_nonblocking(true).expect("a socket option");
        let (stopped, sockets) = (Arc::clone(&stop), Arc::clone(&open));
        let acceptor = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((client, _)) => {
                        // A client that cannot be served is one that is cut.
                        let _ = join(client, target, &sockets);
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Self {
            stop,
            open,
            acceptor,
        }
    }
}

fn join(client: TcpStream, target: SocketAddr, open: &Mutex<Vec<TcpStream>>) -> io::Result<()> {
    client.set_nonblocking(false)?;
    let server = TcpStream::connect(target)?;
    let mut open = open.lock().expect("nobody panics");
    for (mut from, mut to) in [
        (client.try_clone()?, server.try_clone()?),
        (server.try_clone()?, client.try_clone()?),
    ] {
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
    open.extend([client, server]);
    Ok(())
}
