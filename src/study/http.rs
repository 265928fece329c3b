//! As much of HTTP as a page and its answers need: one request a connection, of a known size, in a known
//! time.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::ledger::Refusal;

/// Bytes of a request's head.
const HEAD: usize = 8 << 10;
/// Bytes of a request's body: an answer has a few hundred.
const BODY: usize = 4 << 10;
/// Headers of a request.
const HEADERS: usize = 64;
/// A request has to be there in this time, however slowly its bytes come.
const PATIENCE: Duration = Duration::from_secs(10);

/// What somebody asks for.
#[derive(Debug, Default)]
pub struct Request {
    pub method: String,
    /// Without what follows a question mark.
    pub path: String,
    /// What follows `Bearer` in the header `Authorization`.
    pub token: String,
    pub json: bool,
    pub body: Vec<u8>,
}

/// What is given back.
pub struct Response {
    pub status: u16,
    pub kind: &'static str,
    /// Whether a browser may keep it.
    pub lasting: bool,
    pub body: Vec<u8>,
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        let body = serde_json::json!({ "error": refusal.message }).to_string();
        let kind = "application/json";
        Response { status: refusal.status, kind, lasting: false, body: body.into_bytes() }
    }
}

/// Reads the request of a connection; none where it ended without one.
pub fn read(stream: &mut TcpStream) -> Result<Option<Request>, Refusal> {
    let until = Instant::now() + PATIENCE;
    let mut bytes = vec![];
    let (mut request, length, start) = loop {
        match head(&bytes)? {
            Some(found) => break found,
            None if bytes.len() >= HEAD => return Err(Refusal::new(431, "the head is too long")),
            None => {}
        }
        if more(stream, &mut bytes, until)? == 0 {
            return match bytes.is_empty() {
                true => Ok(None),
                false => Err(Refusal::new(400, "the request is not whole")),
            };
        }
    };
    if length > BODY {
        return Err(Refusal::new(413, format!("at most {BODY} bytes are taken")));
    }
    while bytes.len() < start + length {
        if more(stream, &mut bytes, until)? == 0 {
            return Err(Refusal::new(400, "the request is not whole"));
        }
    }
    request.body = bytes[start..start + length].to_vec();
    Ok(Some(request))
}

/// The request's head, the length of its body and where that starts; none if there is more to come.
fn head(bytes: &[u8]) -> Result<Option<(Request, usize, usize)>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let bad = |what: &str| Refusal::new(400, what);
    let start = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(start)) => start,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(e) => return Err(bad(&format!("this is no request: {e}"))),
    };
    let target = parsed.path.unwrap_or_default();
    let mut request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: target.split(['?', '#']).next().unwrap_or_default().to_owned(),
        ..Request::default()
    };
    let mut length = 0;
    for header in parsed.headers.iter() {
        let value =
            std::str::from_utf8(header.value).map_err(|_| bad("a header is no text"))?.trim();
        match header.name.to_ascii_lowercase().as_str() {
            "content-length" => {
                length = value.parse().map_err(|_| bad("the length is no number"))?;
            }
            "transfer-encoding" => return Err(Refusal::new(411, "say the length of the body")),
            "authorization" => {
                request.token = value.strip_prefix("Bearer ").unwrap_or_default().to_owned();
            }
            "content-type" => request.json = value.starts_with("application/json"),
            _ => {}
        }
    }
    Ok(Some((request, length, start)))
}

/// Reads what has come, and says how much.
fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>, until: Instant) -> Result<usize, Refusal> {
    let slow = || Refusal::new(408, "the request took too long");
    let gone = |_| Refusal::new(400, "the connection is lost");
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(slow());
        }
        stream.set_read_timeout(Some(left)).map_err(gone)?;
        let mut part = [0; 4096];
        match stream.read(&mut part) {
            Ok(count) => {
                bytes.extend(&part[..count]);
                return Ok(count);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(slow());
            }
            Err(e) => return Err(gone(e)),
        }
    }
}

/// Answers a request, and ends the connection.
pub fn respond(stream: &mut TcpStream, response: &Response) -> std::io::Result<()> {
    let cache = if response.lasting { "private, max-age=86400" } else { "no-store" };
    let head = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: {cache}\r\n\
         X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n\r\n",
        response.status,
        reason(response.status),
        response.kind,
        response.body.len(),
    );
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(head.as_bytes())?;
    stream.write_all(&response.body)?;
    stream.shutdown(Shutdown::Write)?;
    // a connection that is closed on bytes that nobody read takes the answer with it
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let _ = std::io::copy(&mut stream.take(1 << 16), &mut std::io::sink());
    Ok(())
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        507 => "Insufficient Storage",
        _ => "Internal Server Error",
    }
}
