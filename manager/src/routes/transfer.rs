//! Disks that come from the browser, and go to it.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::stream;
use http_body_util::{BodyExt, Limited};
use tokio::sync::mpsc;

use super::acting::see_other;
use super::{
    FormPairs, RouteContext, first_value, line_answer, read_form, refusal_page, run_blocking,
};
use crate::action_table::FORMATS;
use crate::jobs::{CommandJob, DownloadFile, JobOrder};
use crate::operations::CommandSink;
use crate::uploads::{PIECE_LEN_MAX, UploadRefusal, UploadStatus};

/// The longest time in which a piece of an upload comes: a slow line of half a megabit.
const PIECE_TIMEOUT: Duration = Duration::from_secs(90);
/// Bytes that are read at once, and pieces that wait for a slow browser.
const READ_LEN: usize = 256 << 10;
const READ_AHEAD: usize = 4;

fn upload_answer(result: Result<UploadStatus, UploadRefusal>) -> Response {
    match result {
        Ok(status) => {
            let body = serde_json::json!({
                "number": status.number, "length": status.len, "arrived": status.arrived,
            });
            ([(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
        }
        Err(refused) => {
            let status = match &refused {
                UploadRefusal::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
                UploadRefusal::TooMany => StatusCode::TOO_MANY_REQUESTS,
                UploadRefusal::Unknown => StatusCode::NOT_FOUND,
                UploadRefusal::NotNext(_) => StatusCode::CONFLICT,
                UploadRefusal::Io(_) => StatusCode::INSUFFICIENT_STORAGE,
                _ => StatusCode::BAD_REQUEST,
            };
            line_answer(status, &refused.to_string())
        }
    }
}

fn read_only_answer(context: &RouteContext) -> Option<Response> {
    let reason = context.state.facts.read_only_reason.as_ref()?;
    let message = format!("nothing can be changed here: {reason}");
    Some(line_answer(StatusCode::FORBIDDEN, &message))
}

/// Begins an upload.
pub(super) async fn begin_upload(
    State(context): State<RouteContext>,
    request: Request,
) -> Response {
    let pairs = match read_form(request).await {
        Ok(pairs) => pairs,
        Err(refused) => return refused,
    };
    if let Some(refused) = read_only_answer(&context) {
        return refused;
    }
    let Ok(len) = first_value(&pairs, "length").parse() else {
        return line_answer(StatusCode::BAD_REQUEST, "an upload has a length");
    };
    let state = Arc::clone(&context.state);
    let begin = move || state.spool.begin_upload(first_value(&pairs, "name"), len);
    run_blocking(begin)
        .await
        .map_or_else(|fault| fault, upload_answer)
}

/// How much of an upload has arrived.
pub(super) async fn show_upload(
    State(context): State<RouteContext>,
    Path(number): Path<u64>,
) -> Response {
    upload_answer(context.state.spool.upload_status(number))
}

/// Takes the next piece of an upload, with its SHA-256.
pub(super) async fn add_piece(
    State(context): State<RouteContext>,
    Path(number): Path<u64>,
    Query(query): Query<FormPairs>,
    request: Request,
) -> Response {
    if let Some(refused) = read_only_answer(&context) {
        return refused;
    }
    let kind = request.headers().get(CONTENT_TYPE);
    if kind.is_none_or(|kind| kind != "application/octet-stream") {
        return line_answer(StatusCode::UNSUPPORTED_MEDIA_TYPE, "a piece is bytes");
    }
    let (Ok(offset), Some(hash)) = (
        first_value(&query, "offset").parse::<u64>(),
        parse_hash(first_value(&query, "sha256")),
    ) else {
        return line_answer(StatusCode::BAD_REQUEST, "a piece has an offset and a hash");
    };
    if let Err(refused) = context.state.spool.upload_status(number) {
        return upload_answer(Err(refused));
    }
    let body = Limited::new(request.into_body(), PIECE_LEN_MAX).collect();
    let piece = match tokio::time::timeout(PIECE_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => {
            return line_answer(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the piece is too long, or broke off",
            );
        }
        Err(_) => return line_answer(StatusCode::REQUEST_TIMEOUT, "the piece did not arrive"),
    };
    let state = Arc::clone(&context.state);
    let add = move || state.spool.add_piece(number, offset, &piece, &hash);
    run_blocking(add)
        .await
        .map_or_else(|fault| fault, upload_answer)
}

fn parse_hash(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let is_hash = digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits
        .chunks(2)
        .map(byte)
        .collect::<Option<_>>()
        .filter(|_| is_hash)
}

/// A header that has the browser keep the answer as a file of this name.
fn attachment_of(name: &str) -> String {
    let plain = |letter: char| {
        if letter.is_ascii_alphanumeric() || "-_.+@".contains(letter) {
            letter
        } else {
            '_'
        }
    };
    let ascii: String = name.chars().map(plain).collect();
    format!(
        "attachment; filename=\"{ascii}\"; filename*=UTF-8''{}",
        crate::pages::query_value(name)
    )
}

/// Sends every byte of a disk while it is read.
pub(super) async fn download_raw(
    State(context): State<RouteContext>,
    headers: HeaderMap,
    Query(query): Query<FormPairs>,
) -> Response {
    let name = first_value(&query, "node").to_owned();
    let state = Arc::clone(&context.state);
    let asked = name.clone();
    let begun = run_blocking(move || {
        let facts = state
            .operations
            .node_facts(&asked)
            .map_err(|fault| fault.to_string())?;
        let (reader, writer) = std::io::pipe().map_err(|error| error.to_string())?;
        let words = ["export".to_owned(), facts.name.clone(), "-".to_owned()];
        let order = JobOrder {
            title: format!("Download: {}", facts.name),
            words: words.to_vec(),
            sink: CommandSink::Stream(writer.into()),
            next: Some(facts.name.clone()),
            download: None,
            aftermath: None,
        };
        let job = state
            .jobs
            .begin_job(&state.operations, order)
            .map_err(|error| error.to_string())?;
        Ok::<_, String>((job, reader, facts.size))
    });
    match begun.await {
        Ok(Ok((job, reader, len))) => {
            let file = format!("{}.raw", name.replace('@', "-"));
            let body = Body::from_stream(pipe_stream(reader, Some(job)));
            let headers = [
                (CONTENT_TYPE, "application/octet-stream".to_owned()),
                (CONTENT_LENGTH, len.to_string()),
                (CONTENT_DISPOSITION, attachment_of(&file)),
            ];
            (headers, body).into_response()
        }
        Ok(Err(message)) => {
            let status = StatusCode::CONFLICT;
            refusal_page(&context, &headers, status, &message, None).await
        }
        Err(fault) => fault,
    }
}

/// The bytes that come out of `reader`. When nobody wants more of them, the job is stopped; if the
/// job fails, so does the stream.
fn pipe_stream<R: Read + Send + 'static>(
    mut reader: R,
    job: Option<Arc<CommandJob>>,
) -> impl futures::Stream<Item = std::io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut buffer = vec![0; READ_LEN];
            let piece = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => {
                    buffer.truncate(len);
                    Ok(Bytes::from(buffer))
                }
                Err(error) => Err(error),
            };
            let is_over = piece.is_err();
            if sender.blocking_send(piece).is_err() {
                if let Some(job) = &job {
                    job.watch.stop_command();
                }
                return;
            }
            if is_over {
                return;
            }
        }
        let end = job.and_then(|job| job.await_end(PIECE_TIMEOUT));
        if end.is_some_and(|end| end.end.code != 0) {
            let _ = sender.blocking_send(Err(std::io::Error::other("the export failed")));
        }
    });
    stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    })
}

/// Begins a job that makes a file for the browser.
pub(super) async fn prepare_download(
    State(context): State<RouteContext>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let pairs = match read_form(request).await {
        Ok(pairs) => pairs,
        Err(refused) => return refused,
    };
    let format = first_value(&pairs, "format").to_owned();
    let name = first_value(&pairs, "node").to_owned();
    if !FORMATS.iter().any(|(known, _)| *known == format) {
        return line_answer(StatusCode::BAD_REQUEST, "there is no such format");
    }
    let state = Arc::clone(&context.state);
    let begun = run_blocking(move || {
        let facts = state
            .operations
            .node_facts(&name)
            .map_err(|fault| fault.to_string())?;
        let path = state
            .spool
            .download_path(facts.size)
            .map_err(|refused| refused.to_string())?;
        let file = path.to_string_lossy().into_owned();
        let words = ["export", &facts.name, &file, "-O", &format].map(str::to_owned);
        let download = DownloadFile {
            path,
            name: format!("{}.{format}", facts.name.replace('@', "-")),
        };
        let order = JobOrder {
            title: format!("Download: {} as {format}", facts.name),
            words: words.to_vec(),
            sink: CommandSink::Kept,
            next: Some(facts.name),
            download: Some(download),
            aftermath: None,
        };
        state
            .jobs
            .begin_job(&state.operations, order)
            .map_err(|refused| refused.to_string())
    });
    match begun.await {
        Ok(Ok(job)) => see_other(&format!("/jobs/{}", job.number)),
        Ok(Err(message)) => {
            refusal_page(&context, &headers, StatusCode::CONFLICT, &message, None).await
        }
        Err(fault) => fault,
    }
}

/// Sends the file that a job has made.
pub(super) async fn download_file(
    State(context): State<RouteContext>,
    Path(number): Path<u64>,
) -> Response {
    let job = context.state.jobs.find_job(number);
    let opened = run_blocking(move || {
        let job = job?;
        let file = job.download.as_ref()?;
        job.job_end().filter(|end| end.end.code == 0)?;
        let opened = std::fs::File::open(&file.path).ok()?;
        let len = opened.metadata().ok()?.len();
        Some((opened, len, file.name.clone()))
    });
    match opened.await {
        Ok(Some((file, len, name))) => {
            let headers = [
                (CONTENT_TYPE, "application/octet-stream".to_owned()),
                (CONTENT_LENGTH, len.to_string()),
                (CONTENT_DISPOSITION, attachment_of(&name)),
            ];
            (headers, Body::from_stream(pipe_stream(file, None))).into_response()
        }
        Ok(None) => line_answer(StatusCode::NOT_FOUND, "there is no such file"),
        Err(fault) => fault,
    }
}
