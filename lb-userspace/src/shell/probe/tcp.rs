//! Sends a few bytes and waits for an answer that contains something.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::config::Pattern;

/// The most of an answer that is read, in bytes.
pub const ANSWER_MAX: usize = 16 * 1024;

/// How an exchange ended.
pub enum Exchange {
    /// The answer contains what it has to.
    Found,
    /// The server ended the connection before.
    Ended,
    /// It does not, in [`ANSWER_MAX`] bytes.
    TooLong,
}

/// Sends `send`, then reads into `answer` until it contains `expect`. What was
/// read by then is in `answer`, however this ends.
///
/// # Errors
/// The connection broke. Timeouts are up to the caller.
pub async fn exchange(
    stream: &mut TcpStream,
    send: &[u8],
    expect: &Pattern,
    answer: &mut Vec<u8>,
) -> io::Result<Exchange> {
    stream.write_all(send).await?;
    loop {
        if answer.len() >= ANSWER_MAX {
            return Ok(Exchange::TooLong);
        }
        let room = ANSWER_MAX - answer.len();
        let mut part = [0; 2048];
        let length = stream.read(&mut part[..room.min(2048)]).await?;
        if length == 0 {
            return Ok(Exchange::Ended);
        }
        answer.extend_from_slice(&part[..length]);
        if expect.is_in(answer) {
            return Ok(Exchange::Found);
        }
    }
}
