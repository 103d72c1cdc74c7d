//! What the nodes say of themselves, from their `/watch`: who leads, in which
//! term, and since when. It is what tells an election's end apart from
//! everything that comes after it.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::collect::{Collection, LOOK_UP, Listener};
use crate::cluster;
use crate::lab::Lab;

/// Between two attempts to reach a node that is gone.
const RETRY: Duration = Duration::from_millis(20);

/// A line of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// Whose.
    pub node: usize,
    /// Whether it says that it leads.
    pub leads: bool,
    /// Its term.
    pub term: u64,
}

/// Listens to all nodes for as long as it lives.
#[derive(Debug)]
pub struct News(Collection<Word>);

impl News {
    /// Listens from the client's namespace.
    pub fn follow(lab: &Lab) -> Self {
        let mut collection = Collection::empty();
        for node in 1..=lab.nodes().len() {
            collection.listen(lab.client(), move |listener| {
                while listener.wanted() {
                    // A node that is gone comes back, or the bench ends.
                    let _ = listen(node, listener);
                    thread::sleep(RETRY);
                }
            });
        }
        Self(collection)
    }

    /// When a node other than `old` first said that it leads, and which one:
    /// of what was heard since `moment`.
    pub fn elected(&self, moment: Instant, old: usize) -> Option<(Instant, usize)> {
        let words = self.0.since(moment);
        let new = words
            .iter()
            .find(|(_, word)| word.leads && word.node != old);
        new.map(|(at, word)| (*at, word.node))
    }
}

fn listen(node: usize, listener: &Listener<Word>) -> io::Result<()> {
    let at = SocketAddr::from(cluster::health(node));
    let mut stream = TcpStream::connect_timeout(&at, LOOK_UP)?;
    stream.set_read_timeout(Some(LOOK_UP))?;
    stream.set_nodelay(true)?;
    stream.write_all(b"GET /watch HTTP/1.1\r\nhost: lab\r\n\r\n")?;
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while listener.wanted() {
        match stream.read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) => {
                if let Some(word) = read(node, &line) {
                    listener.note(word);
                }
                line.clear();
            }
            // What has come of a line so far stays in it.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Headers and the sizes of chunks stand on lines, too; they are no JSON.
fn read(node: usize, line: &[u8]) -> Option<Word> {
    let json: Value = serde_json::from_slice(line).ok()?;
    Some(Word {
        node,
        leads: json.get("role")?.as_str()? == "leader",
        term: json.get("term")?.as_u64()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_all_lines_those_that_name_a_role_are_words() {
        let word = read(2, b"{\"id\":2,\"role\":\"leader\",\"term\":7}\n");
        let leads = |node, term| Word {
            node,
            leads: true,
            term,
        };
        assert_eq!(word, Some(leads(2, 7)));
        for line in ["HTTP/1.1 200 OK\r\n", "\r\n", "5a\r\n", "{\"id\":2}\n"] {
            assert_eq!(read(2, line.as_bytes()), None, "{line:?}");
        }
    }
}
