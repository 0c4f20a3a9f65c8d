//! Buckets as places for objects, over HTTP, with a server that misbehaves.

use std::path::Path;

use vellum_backup::objects::{Environment, ObjectErrorKind, Objects, open_objects};

use crate::s3::{Server, Trouble};

const SECRET: &str = "a-secret-that-nobody-sees";

fn open(server: &Server, address: &str) -> Box<dyn Objects> {
    let environment: Environment = [
        ("AWS_ENDPOINT", server.address.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "somebody"),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_REGION", "here"),
        ("PATH", "/bin"),
    ]
    .into_iter()
    .map(|(key, value)| (key.into(), value.into()))
    .collect();
    open_objects(address, Path::new("/"), &environment).expect("an address")
}

fn names(objects: &dyn Objects, prefix: &str) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let listed = objects.list(prefix, &mut |name, len| {
        found.push((name.to_owned(), len));
        Ok(())
    });
    listed.expect("a listing");
    found.sort();
    found
}

#[test]
fn objects_are_put_read_listed_and_deleted_below_their_prefix() {
    for (knows_conditions, address) in [
        (true, "s3://disks"),
        (true, "s3://disks/a/b"),
        (false, "s3://disks/a"),
    ] {
        let server = Server::start(knows_conditions);
        let objects = open(&server, address);
        server.plant("a/bystander", b"of somebody else");
        server.plant("unrelated", b"of somebody else");
        assert_eq!(
            objects
                .get("vellum.repository")
                .expect_err("nothing yet")
                .kind,
            ObjectErrorKind::Missing
        );
        objects.put("vellum.repository", b"what").expect("put");
        for nth in 0..8 {
            objects
                .put(
                    &format!("packs/0{nth}/x"),
                    &vec![nth; usize::from(nth) * 10],
                )
                .expect("put");
        }
        objects.put("packs/03/x", &[3; 30]).expect("the same again");
        assert_eq!(objects.get("packs/07/x").expect("there"), [7; 70]);
        assert_eq!(objects.get("packs/00/x").expect("there"), b"");
        assert_eq!(
            objects.get_range("packs/07/x", 2..5).expect("there"),
            [7; 3]
        );
        assert_eq!(
            objects
                .get_range("packs/07/x", 5..5)
                .expect("nothing is there"),
            b""
        );
        assert!(
            objects.get_range("packs/07/x", 60..71).is_err(),
            "exactly as many as asked for"
        );
        assert!(objects.get_range("packs/07/x", 100..101).is_err());
        assert_eq!(names(&*objects, "packs/").len(), 8, "more than one page");
        assert_eq!(
            names(&*objects, "packs/02/"),
            [("packs/02/x".to_owned(), 20)]
        );
        assert_eq!(names(&*objects, "journal/"), []);
        objects.delete("packs/02/x").expect("gone");
        objects.delete("packs/02/x").expect("gone already");
        assert_eq!(names(&*objects, "packs/").len(), 7);
        assert!(server.keys().contains(&"unrelated".to_owned()));
        assert_eq!(objects.describe(), address);
    }
}

#[test]
fn other_bytes_under_a_name_are_refused_where_the_store_can_tell() {
    let server = Server::start(true);
    let objects = open(&server, "s3://disks/a");
    objects.put("keys/x", b"one").expect("put");
    assert!(objects.put("keys/x", b"two").is_err());
    assert_eq!(objects.get("keys/x").expect("there"), b"one");
}

#[test]
fn a_store_without_conditions_is_asked_once_and_never_again() {
    let server = Server::start(false);
    let objects = open(&server, "s3://disks");
    (0..3).for_each(|nth| objects.put(&format!("keys/{nth}"), b"x").expect("put"));
    assert_eq!(server.take_log().len(), 4, "one refusal, three puts");
}

#[test]
fn passing_trouble_passes() {
    let server = Server::start(true);
    let objects = open(&server, "s3://disks");
    let bytes: Vec<u8> = (0..100_000_u32).map(|at| at as u8).collect();
    for troubles in [
        &[Trouble::Status(500)][..],
        &[Trouble::Status(503), Trouble::Status(503)],
        &[Trouble::AnswerLost],
    ] {
        let name = format!("packs/00/{troubles:?}").replace(['[', ']', '(', ')', ' ', ','], "");
        server.trouble("PUT", troubles);
        objects.put(&name, &bytes).expect("put in the end");
        server.trouble("GET", troubles);
        assert_eq!(objects.get(&name).expect("read in the end"), bytes);
        server.trouble("GET", troubles);
        assert_eq!(names(&*objects, "packs/").len(), server.keys().len());
        server.trouble("DELETE", troubles);
        objects.delete(&name).expect("gone in the end");
    }
}

#[test]
fn a_body_that_ends_early_or_is_of_another_range_is_never_taken_for_the_object() {
    let server = Server::start(true);
    let objects = open(&server, "s3://disks");
    let bytes: Vec<u8> = (0..100_000_u32).map(|at| at as u8).collect();
    objects.put("packs/00/x", &bytes).expect("put");
    server.trouble("GET", &[Trouble::BodyCut]);
    assert_eq!(objects.get("packs/00/x").expect("read again"), bytes);
    server.trouble("GET", &[Trouble::BodyCut]);
    assert_eq!(
        objects
            .get_range("packs/00/x", 10..90_000)
            .expect("read again"),
        bytes[10..90_000]
    );
    for trouble in [Trouble::RangeIgnored, Trouble::OtherRange] {
        server.trouble("GET", &[trouble; 20]);
        if let Ok(found) = objects.get_range("packs/00/x", 10..20) {
            assert_eq!(found, bytes[10..20], "{trouble:?}");
        }
        server.trouble("GET", &[]);
    }
}

#[test]
fn what_is_refused_says_what_and_where_and_no_secret() {
    let server = Server::start(true);
    let objects = open(&server, "s3://disks/a");
    for (status, kind) in [
        (403, ObjectErrorKind::Denied),
        (401, ObjectErrorKind::Denied),
        (404, ObjectErrorKind::Missing),
    ] {
        server.trouble("GET", &[Trouble::Status(status)]);
        let refused = objects.get("keys/x").expect_err("refused");
        assert_eq!(refused.kind, kind, "{refused}");
        let shown = format!("{refused} {refused:?}");
        assert!(
            shown.contains("s3://disks/a/keys/x") && !shown.contains(SECRET),
            "{shown}"
        );
    }
}
