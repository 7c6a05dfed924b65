//! Connections between requests. The HTTP library gives the first head of a connection a time, and an
//! idle connection another; but a client that begins a second head and never ends it would be waited for
//! without any limit. So each connection knows when its last answer ended, and one that has had no whole
//! request for longer than both times together is cut. So is one whose client takes no byte of a large
//! answer for as long.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::Extensions;
use actix_web::rt::net::TcpStream;
use actix_web::web::Bytes;

/// How often a worker looks at its connections.
const ROUND: Duration = Duration::from_secs(5);
/// An answer up to this size is in the kernel's hands, or nobody reads it, soon after it was made.
const SMALL_ANSWER_BYTES: u64 = 64 * 1024;

thread_local! {
    /// The connections of this worker. They never leave its thread.
    static OPEN: RefCell<Vec<Weak<Connection>>> = const { RefCell::new(Vec::new()) };
}

/// One connection, for as long as the library serves it.
#[derive(Debug)]
pub(super) struct Connection {
    /// The same socket a second time: the library keeps the first one for itself.
    socket: std::net::TcpStream,
    /// Requests whose answer has not ended.
    busy: Cell<usize>,
    /// Those of them that wait for nothing but the client, who is to take the answer.
    sending: Cell<usize>,
    /// When an answer ended or went on, last.
    moved: Cell<Instant>,
    /// An answer said that it is the last.
    closing: Cell<bool>,
}

/// A request of a connection, until its answer has ended.
#[derive(Debug)]
pub(super) struct Serving(Rc<Connection>);

/// Makes a worker remember a new connection; for `HttpServer::on_connect`. A connection that has had no
/// whole request for `patience`, or whose client takes nothing of its answer for so long, is cut.
pub(super) fn remember(io: &dyn Any, data: &mut Extensions, patience: Duration) {
    let Some(stream) = io.downcast_ref::<TcpStream>() else {
        return;
    };
    // Out of descriptors: served all the same.
    let Ok(socket) = stream.as_fd().try_clone_to_owned() else {
        return;
    };
    let connection = Rc::new(Connection {
        socket: socket.into(),
        busy: Cell::new(0),
        sending: Cell::new(0),
        moved: Cell::new(Instant::now()),
        closing: Cell::new(false),
    });
    let is_first = OPEN.with_borrow_mut(|open| {
        open.push(Rc::downgrade(&connection));
        open.len() == 1
    });
    data.insert(connection);
    if is_first {
        actix_web::rt::spawn(watch(patience));
    }
}

/// Cuts what waited too long, until the worker has no connection left.
async fn watch(patience: Duration) {
    loop {
        actix_web::rt::time::sleep(ROUND.min(patience)).await;
        let is_empty = OPEN.with_borrow_mut(|open| {
            open.retain(|connection| {
                let connection = connection.upgrade();
                connection.is_some_and(|connection| !connection.is_cut_after(patience))
            });
            // What many connections needed is given back when they have gone.
            open.shrink_to(2 * open.len());
            open.is_empty()
        });
        if is_empty {
            return;
        }
    }
}

impl Connection {
    fn is_cut_after(&self, patience: Duration) -> bool {
        let waits_for_client = self.busy.get() == self.sending.get();
        let is_cut = waits_for_client && self.moved.get().elapsed() > patience;
        if is_cut {
            // The library reads the end of the stream, and closes. If there is nothing to cut any more,
            // all the better.
            let _ = self.socket.shutdown(Shutdown::Both);
        }
        is_cut
    }

    /// Says that the answer being made is the last one.
    pub(super) fn close_after_this(&self) {
        self.closing.set(true);
    }

    /// Whether an earlier answer was the last one. The library has read on by then, and brings requests
    /// that the client must take for never served (RFC 9112, section 9.6).
    pub(super) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Says that a request of this connection is being served.
    pub(super) fn serve(self: &Rc<Self>) -> Serving {
        self.busy.set(self.busy.get() + 1);
        Serving(Rc::clone(self))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
        self.0.moved.set(Instant::now());
    }
}

/// Lets a large answer's connection count as busy until the answer has ended.
pub(super) fn until_sent(body: BoxBody, serving: Option<Serving>) -> BoxBody {
    let is_small = match body.size() {
        BodySize::None => true,
        BodySize::Sized(bytes) => bytes <= SMALL_ANSWER_BYTES,
        BodySize::Stream => false,
    };
    match serving {
        Some(serving) if !is_small => BoxBody::new(Sending::new(body, serving)),
        _ => body,
    }
}

/// An answer on its way. The library asks for more of it when the client has taken what there was.
struct Sending {
    body: BoxBody,
    serving: Serving,
}

impl Sending {
    fn new(body: BoxBody, serving: Serving) -> Self {
        let connection = &serving.0;
        connection.sending.set(connection.sending.get() + 1);
        connection.moved.set(Instant::now());
        Self { body, serving }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let connection = &self.serving.0;
        connection.sending.set(connection.sending.get() - 1);
    }
}

impl MessageBody for Sending {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_next(cx);
        if polled.is_ready() {
            self.serving.0.moved.set(Instant::now());
        }
        polled
    }
}
