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
    /// What came and belongs to no answer yet.
    received: Vec<u8>,
}

impl RawConnection {
    /// Connects to `127.0.0.1:PORT`.
    pub(crate) async fn open(address: &str) -> Self {
        let socket = TcpStream::connect(address).await.expect("it listens");
        socket.set_nodelay(true).expect("a TCP option");
        Self {
            socket,
            received: Vec::new(),
        }
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

    /// Every further answer until the server closes, which it must.
    pub(crate) async fn answers_until_close(&mut self) -> Vec<Reply> {
        let mut replies = Vec::new();
        while let Some(reply) = self.answer().await {
            replies.push(reply);
        }
        assert!(self.received.is_empty(), "half an answer");
        replies
    }

    /// Reads up to so many bytes; how many came. 0: the server closed.
    pub(crate) async fn take_some(&mut self, most: usize) -> usize {
        let mut piece = vec![0; most];
        self.socket.read(&mut piece).await.unwrap_or(0)
    }

    /// Reads until the server closes, which it must do in time; how many bytes came.
    pub(crate) async fn drained_within(&mut self, limit: Duration) -> usize {
        let reading = async {
            let mut bytes = std::mem::take(&mut self.received).len();
            let mut piece = vec![0; 65_536];
            while let Ok(length) = self.socket.read(&mut piece).await {
                if length == 0 {
                    break;
                }
                bytes += length;
            }
            bytes
        };
        tokio::time::timeout(limit, reading)
            .await
            .unwrap_or_else(|_| panic!("not closed within {limit:?}"))
    }

    async fn read_answer(&mut self) -> Option<Reply> {
        loop {
            if let Some((reply, length)) = parse_reply(&self.received) {
                self.received.drain(..length);
                return Some(reply);
            }
            let mut piece = [0; 8192];
            match self.socket.read(&mut piece).await {
                Ok(0) | Err(_) => return None,
                Ok(length) => self.received.extend_from_slice(&piece[..length]),
            }
        }
    }
}

/// A whole answer with a `Content-Length`, once all of it is there, and how many bytes it took.
fn parse_reply(received: &[u8]) -> Option<(Reply, usize)> {
    let end = received
        .windows(4)
        .position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&received[..end]).into_owned();
    let rest = &received[end + 4..];
    let mut lines = head.split("\r\n");
    let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    if (100..200).contains(&status) {
        let (reply, length) = parse_reply(rest)?;
        return Some((reply, end + 4 + length));
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
    let reply = Reply {
        status,
        headers,
        body: Bytes::copy_from_slice(body),
    };
    Some((reply, end + 4 + length))
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
