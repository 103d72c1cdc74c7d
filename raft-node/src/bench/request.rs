//! The requests of a workload, encoded before the clock starts.

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::Full;
use hyper::{Method, Request};
use serde_json::json;

use crate::config::raw::{Api, Workload};

/// One request for each key.
pub struct Requests {
    api: Api,
    method: Method,
    /// (path, body)
    encoded: Vec<(String, Bytes)>,
}

impl Requests {
    /// The requests of `workload` on `keys` keys, with values of so many bytes.
    pub fn new(api: Api, workload: Workload, keys: u64, value_bytes: usize) -> Self {
        let value = "v".repeat(value_bytes);
        let encoded = (0..keys).map(|number| {
            let key = format!("bench-{number:08}");
            match api {
                Api::Kv => of_kv(workload, &key, &value),
                Api::Etcd => of_etcd(workload, key.as_bytes(), value.as_bytes()),
            }
        });
        let method = match (api, workload) {
            (Api::Kv, Workload::Linearizable | Workload::Lease | Workload::Eventual) => Method::GET,
            (Api::Kv, Workload::Put) | (Api::Etcd, _) => Method::POST,
        };
        Self {
            api,
            method,
            encoded: encoded.collect(),
        }
    }

    /// The request of one key, without its authority.
    pub fn get(&self, key: u64) -> Request<Full<Bytes>> {
        let (path, body) = &self.encoded[key as usize % self.encoded.len()];
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = self.method.clone();
        // A path of letters, digits and one query is a valid URI.
        *request.uri_mut() = path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        let content = match self.api {
            Api::Kv => "application/json",
            Api::Etcd => {
                headers.insert("te", hyper::header::HeaderValue::from_static("trailers"));
                "application/grpc"
            }
        };
        headers.insert(
            "content-type",
            hyper::header::HeaderValue::from_static(content),
        );
        request
    }
}

fn of_kv(workload: Workload, key: &str, value: &str) -> (String, Bytes) {
    let consistency = match workload {
        Workload::Put => {
            let body = json!({"key": key, "value": value}).to_string();
            return ("/kv".into(), body.into());
        }
        Workload::Linearizable => "linearizable",
        Workload::Lease => "lease",
        Workload::Eventual => "eventual",
    };
    (format!("/kv/{key}?consistency={consistency}"), Bytes::new())
}

/// `PutRequest` and `RangeRequest` of etcd's rpc.proto, as one gRPC message.
fn of_etcd(workload: Workload, key: &[u8], value: &[u8]) -> (String, Bytes) {
    const KEY: u8 = 1;
    const VALUE: u8 = 2;
    const SERIALIZABLE: u8 = 7;
    let mut message = BytesMut::new();
    put_bytes(&mut message, KEY, key);
    let method = match workload {
        Workload::Put => {
            put_bytes(&mut message, VALUE, value);
            "Put"
        }
        // etcd has no lease reads; its default is linearizable.
        Workload::Linearizable | Workload::Lease => "Range",
        Workload::Eventual => {
            message.put_u8(SERIALIZABLE << 3);
            message.put_u8(1);
            "Range"
        }
    };
    let mut body = BytesMut::new();
    // Not compressed.
    body.put_u8(0);
    body.put_u32(message.len() as u32);
    body.put_slice(&message);
    (format!("/etcdserverpb.KV/{method}"), body.freeze())
}

/// A field of Protocol Buffers' wire type 2: tag, length, bytes.
fn put_bytes(message: &mut BytesMut, field: u8, bytes: &[u8]) {
    message.put_u8(field << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        message.put_u8(length as u8 | 0x80);
        length >>= 7;
    }
    message.put_u8(length as u8);
    message.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_to_etcd_are_what_protoc_encodes() {
        // printf 'key: "k" value: "vv"' | protoc --encode=etcdserverpb.PutRequest rpc.proto | xxd
        let (path, body) = of_etcd(Workload::Put, b"k", b"vv");
        assert_eq!(path, "/etcdserverpb.KV/Put");
        assert_eq!(&body[..], b"\0\0\0\0\x07\x0a\x01k\x12\x02vv");
        // printf 'key: "k" serializable: true' | protoc --encode=etcdserverpb.RangeRequest rpc.proto | xxd
        let (path, body) = of_etcd(Workload::Eventual, b"k", b"");
        assert_eq!(path, "/etcdserverpb.KV/Range");
        assert_eq!(&body[..], b"\0\0\0\0\x05\x0a\x01k\x38\x01");
    }

    #[test]
    fn a_length_of_more_than_seven_bits_takes_two_bytes() {
        let mut message = BytesMut::new();
        put_bytes(&mut message, 2, &[b'x'; 300]);
        assert_eq!(&message[..4], b"\x12\xac\x02x");
    }
}
