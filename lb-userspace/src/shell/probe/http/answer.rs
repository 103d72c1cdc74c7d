//! Reads one answer from a connection: the header, and the body as it is framed (RFC 9112).

use std::io;

use hyper::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use hyper::{HeaderMap, Method, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{BODY_MAX, GetError, HEADER_MAX, Head, fields};

/// The most lines of a header.
const LINES_MAX: usize = 100;
/// How much is read at once, at least, in bytes.
const PART: usize = 2048;

/// Where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// After a chunk of no bytes, and the trailer.
    Chunked,
    /// With the connection.
    Close,
}

/// What comes on a connection.
pub(super) struct Reader<'a, S> {
    stream: &'a mut S,
    /// What came and was not used yet.
    ahead: Vec<u8>,
}

impl<'a, S: AsyncRead + Unpin> Reader<'a, S> {
    /// Waits for the first bytes.
    pub(super) async fn begin(stream: &'a mut S) -> Result<Self, GetError> {
        let ahead = Vec::new();
        let mut this = Self { stream, ahead };
        match this.read().await {
            Ok(true) => Ok(this),
            Ok(false) => Err(GetError::Unanswered(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(GetError::Unanswered(error)),
        }
    }

    /// Whether everything that came was used.
    pub(super) fn is_done(&self) -> bool {
        self.ahead.is_empty()
    }

    /// Waits for more. `false`: there is none.
    async fn read(&mut self) -> io::Result<bool> {
        self.ahead.reserve(PART);
        Ok(self.stream.read_buf(&mut self.ahead).await? > 0)
    }

    /// The same, where there has to be more.
    async fn need(&mut self) -> Result<(), GetError> {
        match self.read().await? {
            true => Ok(()),
            false => Err(GetError::Closed),
        }
    }

    /// Reads the header of the answer to a request by `method`.
    pub(super) async fn head(&mut self, method: &Method) -> Result<(Head, Framing), GetError> {
        loop {
            while let Some((head, version, length)) = parse(&self.ahead)? {
                self.ahead.drain(..length);
                // More than a note that the answer is under way.
                if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS
                {
                    return framed(head, version, method);
                }
            }
            self.need_line().await?;
        }
    }

    /// Reads the first [`BODY_MAX`] bytes of the body; and whether there is more.
    pub(super) async fn body(&mut self, framing: Framing) -> Result<(Vec<u8>, bool), GetError> {
        let mut body = Vec::new();
        match framing {
            Framing::Length(length) => {
                self.part(length, &mut body).await?;
                Ok((body, length > BODY_MAX as u64))
            }
            Framing::Chunked => loop {
                let size = self.chunk_size().await?;
                if size == 0 {
                    self.trailer().await?;
                    return Ok((body, false));
                }
                let room = (BODY_MAX - body.len()) as u64;
                self.part(size, &mut body).await?;
                if size > room {
                    return Ok((body, true));
                }
                self.line_end().await?;
            },
            Framing::Close => loop {
                self.part(self.ahead.len() as u64, &mut body).await?;
                if body.len() == BODY_MAX && !self.is_done() {
                    return Ok((body, true));
                }
                if !self.read().await? {
                    return Ok((body, false));
                }
            },
        }
    }

    /// Moves `size` bytes to `body`, as far as there is room.
    async fn part(&mut self, size: u64, body: &mut Vec<u8>) -> Result<(), GetError> {
        let room = BODY_MAX - body.len();
        let mut left = usize::try_from(size).map_or(room, |size| size.min(room));
        loop {
            let length = left.min(self.ahead.len());
            body.extend(self.ahead.drain(..length));
            left -= length;
            if left == 0 {
                return Ok(());
            }
            self.need().await?;
        }
    }

    async fn chunk_size(&mut self) -> Result<u64, GetError> {
        loop {
            match httparse::parse_chunk_size(&self.ahead) {
                Ok(httparse::Status::Complete((length, size))) => {
                    self.ahead.drain(..length);
                    return Ok(size);
                }
                Ok(httparse::Status::Partial) => self.need_line().await?,
                Err(_) => return Err(GetError::NotHttp),
            }
        }
    }

    /// Reads what ends a chunk.
    async fn line_end(&mut self) -> Result<(), GetError> {
        while self.ahead.len() < 2 {
            self.need().await?;
        }
        match self.ahead.starts_with(b"\r\n") {
            true => drop(self.ahead.drain(..2)),
            false => return Err(GetError::NotHttp),
        }
        Ok(())
    }

    async fn trailer(&mut self) -> Result<(), GetError> {
        loop {
            let mut lines = [httparse::EMPTY_HEADER; LINES_MAX];
            match httparse::parse_headers(&self.ahead, &mut lines) {
                Ok(httparse::Status::Complete((length, _))) => {
                    self.ahead.drain(..length);
                    return Ok(());
                }
                Ok(httparse::Status::Partial) => self.need_line().await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for more of lines that are not whole.
    async fn need_line(&mut self) -> Result<(), GetError> {
        if self.ahead.len() > HEADER_MAX {
            return Err(GetError::TooLong);
        }
        self.need().await
    }
}

impl From<httparse::Error> for GetError {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::TooManyHeaders => Self::TooLong,
            _ => Self::NotHttp,
        }
    }
}

/// The header at the beginning of `bytes`, the minor version that it is of, and its length;
/// `None` where there is not all of it yet.
fn parse(bytes: &[u8]) -> Result<Option<(Head, u8, usize)>, GetError> {
    let mut lines = [httparse::EMPTY_HEADER; LINES_MAX];
    let mut answer = httparse::Response::new(&mut lines);
    let httparse::Status::Complete(length) = answer.parse(bytes)? else {
        return Ok(None);
    };
    let status = answer.code.map(StatusCode::from_u16);
    let (Some(Ok(status)), Some(version), Some(headers)) =
        (status, answer.version, fields(answer.headers))
    else {
        return Err(GetError::NotHttp);
    };
    let kept = match version {
        0 => says(&headers, "keep-alive"),
        _ => !says(&headers, "close"),
    };
    let head = Head {
        status,
        headers,
        kept,
    };
    Ok(Some((head, version, length)))
}

/// Whether the server says so of the connection.
fn says(headers: &HeaderMap, word: &str) -> bool {
    let values = headers.get_all(CONNECTION).into_iter();
    let mut words = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    words.any(|found| found.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

/// Finds out where the body ends: RFC 9112, 6.3.
fn framed(mut head: Head, version: u8, method: &Method) -> Result<(Head, Framing), GetError> {
    let bodiless = matches!(
        head.status,
        StatusCode::SWITCHING_PROTOCOLS | StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    let framing = if bodiless || method == Method::HEAD {
        Framing::Length(0)
    } else if let Some(coding) = head.headers.get_all(TRANSFER_ENCODING).iter().next_back() {
        let codings = coding.as_bytes().rsplit(|&byte| byte == b',');
        let mut last = codings.take(1);
        match last.any(|last| last.trim_ascii().eq_ignore_ascii_case(b"chunked")) && version > 0 {
            true => Framing::Chunked,
            false => Framing::Close,
        }
    } else {
        length(&head.headers)?
    };
    head.kept &= framing != Framing::Close && head.status != StatusCode::SWITCHING_PROTOCOLS;
    Ok((head, framing))
}

/// The length that the header names, once or several times.
fn length(headers: &HeaderMap) -> Result<Framing, GetError> {
    let mut found = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let digits = value.to_str().ok().filter(|text| {
            let mut bytes = text.bytes();
            bytes.all(|byte| byte.is_ascii_digit())
        });
        let length = digits.and_then(|digits| digits.parse().ok());
        let length: u64 = length.ok_or(GetError::NotHttp)?;
        if found.replace(length).is_some_and(|before| before != length) {
            return Err(GetError::NotHttp);
        }
    }
    Ok(found.map_or(Framing::Close, Framing::Length))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The status, the body and whether the connection is kept, of an answer that
    /// comes in pieces of `size`.
    async fn read(method: Method, bytes: &[u8], size: usize) -> Option<(u16, Vec<u8>, bool)> {
        let (mut server, mut client) = tokio::io::duplex(size);
        let sent = async {
            use tokio::io::AsyncWriteExt as _;
            // It may have been enough.
            let _ = server.write_all(bytes).await;
            drop(server);
        };
        let found = async {
            let mut reader = Reader::begin(&mut client).await.ok()?;
            let (head, framing) = reader.head(&method).await.ok()?;
            let (body, truncated) = reader.body(framing).await.ok()?;
            let kept = head.kept && !truncated && reader.is_done();
            let status = head.status.as_u16();
            drop(client);
            Some((status, body, kept))
        };
        tokio::join!(sent, found).1
    }

    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

    #[tokio::test]
    async fn answers_come_in_any_pieces() {
        let chunks = format!("{CHUNKED}3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: 1\r\n\r\n");
        let get = Method::GET;
        let table = [
            (
                &get,
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab",
                (200, "ab", true),
            ),
            (
                &get,
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nConnection: x, Close\r\n\r\nab",
                (200, "ab", false),
            ),
            (
                &get,
                "HTTP/1.0 503 No\r\nContent-Length: 0\r\n\r\n",
                (503, "", false),
            ),
            (
                &get,
                "HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n",
                (200, "", true),
            ),
            (
                &get,
                "HTTP/1.1 200 OK\r\n\r\nto the end",
                (200, "to the end", false),
            ),
            (&get, "HTTP/1.1 204 No Content\r\n\r\n", (204, "", true)),
            (
                &get,
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
                (200, "a", true),
            ),
            (
                &Method::HEAD,
                "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n",
                (200, "", true),
            ),
            (&get, &chunks, (200, "abcde", true)),
        ];
        for (method, text, (status, body, kept)) in table {
            for size in 1..=text.len() {
                let found = read(method.clone(), text.as_bytes(), size).await;
                let expected = Some((status, body.as_bytes().to_vec(), kept));
                assert_eq!(found, expected, "{text:?} in pieces of {size}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_or_no_whole_one() {
        let table = [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            &format!("{CHUNKED}3\r\nabc\r\n"),
            &format!("{CHUNKED}3\r\nabcd\r\n0\r\n\r\n"),
            &format!("{CHUNKED}x\r\n"),
        ];
        for text in table {
            for size in [1, text.len()] {
                let found = read(Method::GET, text.as_bytes(), size).await;
                assert_eq!(found, None, "{text:?} in pieces of {size}");
            }
        }
    }

    #[tokio::test]
    async fn bodies_are_cut_off_at_their_limit_however_they_are_framed() {
        let (full, more) = ("x".repeat(BODY_MAX), "x".repeat(BODY_MAX + 1));
        for (body, whole) in [(full, true), (more, false)] {
            let length = body.len();
            let texts = [
                format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"),
                format!("{CHUNKED}{length:x}\r\n{body}\r\n0\r\n\r\n"),
                format!(
                    "{CHUNKED}1\r\nx\r\n{:x}\r\n{}\r\n0\r\n\r\n",
                    length - 1,
                    &body[1..]
                ),
                format!("HTTP/1.1 200 OK\r\n\r\n{body}"),
            ];
            for text in texts {
                let (mut server, mut client) = tokio::io::duplex(text.len());
                tokio::io::AsyncWriteExt::write_all(&mut server, text.as_bytes())
                    .await
                    .unwrap();
                drop(server);
                let mut reader = Reader::begin(&mut client).await.unwrap();
                let (_, framing) = reader.head(&Method::GET).await.unwrap();
                let (body, truncated) = reader.body(framing).await.unwrap();
                assert_eq!((body.len(), truncated), (BODY_MAX, !whole), "{framing:?}");
            }
        }
    }
}
