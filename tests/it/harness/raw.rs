//! Requests that no proper client sends, byte by byte over a socket.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::Reply;

/// How long an answer to a broken request may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// A connection that sends what it is told.
#[derive(Debug)]
pub(crate) struct RawConnection {
    socket: TcpStream,
}

impl RawConnection {
    /// Connects to `127.0.0.1:PORT`.
    pub(crate) async fn open(address: &str) -> Self {
        let socket = TcpStream::connect(address).await.expect("it listens");
        socket.set_nodelay(true).expect("a TCP option");
        Self { socket }
    }

    /// Sends bytes. A server that has answered and closed may refuse them: no failure.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _ = self.socket.write_all(bytes.as_ref()).await;
        self
    }

    /// Sends the head of an upload: request line, host, these headers, empty line.
    pub(crate) async fn upload_head(&mut self, headers: &[(&str, &str)]) -> &mut Self {
        let mut head = "POST /v1/images HTTP/1.1\r\nHost: hapax\r\n".to_owned();
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        self.send(head + "\r\n").await
    }

    /// Its own port.
    #[cfg(feature = "seams")]
    pub(crate) fn port(&self) -> u16 {
        self.socket.local_addr().expect("it is connected").port()
    }

    /// Ends the connection as a process that died would: no end of the stream, a reset.
    #[cfg(feature = "seams")]
    pub(crate) fn reset(self) {
        self.socket.set_zero_linger().expect("a TCP option");
    }

    /// Says that nothing more will come.
    pub(crate) async fn finish_sending(&mut self) -> &mut Self {
        let _ = self.socket.shutdown().await;
        self
    }

    /// The answer, if one comes before the server closes. Interim (1xx) answers are passed over.
    pub(crate) async fn answer(&mut self) -> Option<Reply> {
        tokio::time::timeout(ANSWER_LIMIT, self.read_answer())
            .await
            .unwrap_or_else(|_| panic!("neither an answer nor a close within {ANSWER_LIMIT:?}"))
    }

    async fn read_answer(&mut self) -> Option<Reply> {
        let mut received = Vec::new();
        loop {
            if let Some(reply) = parse_reply(&received) {
                return Some(reply);
            }
            let mut piece = [0; 8192];
            match self.socket.read(&mut piece).await {
                Ok(0) | Err(_) => return None,
                Ok(length) => received.extend_from_slice(&piece[..length]),
            }
        }
    }
}

/// A whole answer with a `Content-Length`, once all of it is there.
fn parse_reply(received: &[u8]) -> Option<Reply> {
    let end = received
        .windows(4)
        .position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&received[..end]).into_owned();
    let rest = &received[end + 4..];
    let mut lines = head.split("\r\n");
    let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    if (100..200).contains(&status) {
        return parse_reply(rest);
    }
    let mut headers = reqwest::header::HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        let name: reqwest::header::HeaderName = name.parse().ok()?;
        headers.insert(name, value.trim().parse().ok()?);
    }
    let length = headers.get("content-length");
    let length: usize = length.map_or(Some(0), |length| length.to_str().ok()?.parse().ok())?;
    let body = rest.get(..length)?;
    Some(Reply {
        status,
        headers,
        body: Bytes::copy_from_slice(body),
    })
}

/// A multipart body written by hand: each part's own header lines and its bytes.
pub(crate) fn multipart_body(boundary: &str, parts: &[(&str, &[u8])], closed: bool) -> Vec<u8> {
    let mut body = Vec::new();
    for (headers, bytes) in parts {
        body.extend_from_slice(format!("--{boundary}\r\n{headers}\r\n\r\n").as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    if closed {
        body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    }
    body
}
