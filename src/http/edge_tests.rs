//! Refusals before the end of the body, over real sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use actix_web::dev::ServerHandle;
use actix_web::web::Data;

use super::*;
use crate::config::{AuthMode, Config};
use crate::http::{Settings, run};

/// A server that asks for keys: every upload without one is refused before its body.
fn start() -> (SocketAddr, ServerHandle) {
    let mut config = Config::default();
    config.auth.mode = AuthMode::Keys;
    config.server.workers = 1;
    let settings = Data::new(Settings::new(&config, Arc::default()).expect("valid"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let server = run(listener, &config, move |app| {
        app.app_data(settings.clone());
    })
    .expect("serves");
    let handle = server.handle();
    actix_web::rt::spawn(server);
    (address, handle)
}

/// Sends everything, then reads to the end: what an ordinary blocking client does.
fn exchange(address: SocketAddr, head: &str, body: &[u8]) -> (String, bool) {
    let mut socket = TcpStream::connect(address).expect("connects");
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    socket.write_all(head.as_bytes()).expect("sends the head");
    let all_sent = socket.write_all(body).is_ok();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error}"),
        }
        // The problem is the last thing in the answer.
        if answer.ends_with(b"}") {
            break;
        }
    }
    (String::from_utf8(answer).expect("UTF-8"), all_sent)
}

async fn exchanged(address: SocketAddr, head: String, body: Vec<u8>) -> (String, bool) {
    actix_web::web::block(move || exchange(address, &head, &body))
        .await
        .expect("the thread lives")
}

fn assert_refused(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(
        answer
            .to_ascii_lowercase()
            .contains("\r\nconnection: close\r\n"),
        "{answer}"
    );
    assert!(answer.contains("\"code\":\"unauthorized\""), "{answer}");
}

#[actix_web::test]
async fn a_refusal_reaches_a_client_that_sends_everything_first() {
    let (address, server) = start();
    let bytes = 16 * 1024 * 1024;
    let head = format!(
        "POST /v1/images HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {bytes}\r\n\r\n"
    );
    let (answer, all_sent) = exchanged(address, head, vec![7; bytes]).await;
    assert_refused(&answer);
    assert!(all_sent);

    let head = "POST /v1/images HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = [b"10000\r\n".as_slice(), &[7; 0x10000], b"\r\n"].concat();
    let mut body = chunk.repeat(256);
    body.extend_from_slice(b"0\r\n\r\n");
    let (answer, all_sent) = exchanged(address, head.to_owned(), body).await;
    assert_refused(&answer);
    assert!(all_sent);
    server.stop(false).await;
}

#[actix_web::test]
async fn a_refusal_does_not_wait_for_a_body_that_was_asked_for() {
    let (address, server) = start();
    let head = "POST /v1/images HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n";
    let (answer, _) = exchanged(address, head.to_owned(), Vec::new()).await;
    let answer = answer
        .strip_prefix("HTTP/1.1 100 Continue\r\n\r\n")
        .unwrap_or(&answer);
    assert_refused(answer);
    server.stop(false).await;
}

#[actix_web::test]
async fn an_endless_body_is_dropped_in_the_end() {
    let (address, server) = start();
    let started = Instant::now();
    let ended = thread::spawn(move || {
        let mut socket = TcpStream::connect(address).expect("connects");
        let head = "POST /v1/images HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        socket.write_all(head.as_bytes()).expect("sends the head");
        while started.elapsed() < 4 * LINGER {
            if socket.write_all(b"1\r\nx\r\n").is_err() {
                return true;
            }
            thread::sleep(Duration::from_millis(20));
        }
        false
    });
    let ended = actix_web::web::block(move || ended.join())
        .await
        .expect("the thread lives");
    assert!(
        ended.expect("no panic"),
        "the connection outlived its bound"
    );
    assert!(
        started.elapsed() >= LINGER / 2,
        "the connection was closed at once"
    );
    server.stop(false).await;
}
