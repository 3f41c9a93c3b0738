//! Every field of every request, with values that it cannot have: the code, and the field that
//! the refusal names.

mod drafting;
mod generation;

use dssd_proto::FILE_DESCRIPTOR_SET;
use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorSet};
use std::collections::{BTreeMap, BTreeSet};
use tonic::Status;
use tonic_types::StatusExt as _;

/// A value of one field: where it is in the descriptors, what a refusal of it names (nothing where
/// it is fine), and how it gets into a request.
type Row<T> = (&'static str, &'static str, fn(&mut T));

/// The field paths of a refusal.
pub(crate) fn named(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = details.bad_request().map(|bad| &bad.field_violations);
    let violations = violations.into_iter().flatten();
    violations
        .map(|violation| violation.field.clone())
        .collect()
}

/// `Message.field` of everything that a client of the two services can send.
fn request_fields() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let files = || set.file.iter().filter(|file| file.package() == "dssd.v1");
    let messages = files().flat_map(|file| &file.message_type);
    let messages: BTreeMap<&str, &DescriptorProto> =
        messages.map(|message| (message.name(), message)).collect();
    let methods = files().flat_map(|file| file.service.iter().flat_map(|s| &s.method));
    let mut open: Vec<&str> = methods.map(|method| short(method.input_type())).collect();
    let (mut seen, mut fields) = (BTreeSet::new(), BTreeSet::new());
    while let Some(name) = open.pop() {
        // The entries of maps are nested messages, and belong to the map's own field.
        let Some(message) = messages.get(name).filter(|_| seen.insert(name)) else {
            continue;
        };
        for field in &message.field {
            fields.insert(format!("{name}.{}", field.name()));
            open.push(short(field.type_name()));
        }
    }
    fields
}

fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

#[test]
fn no_field_is_without_a_row() {
    let rows: BTreeSet<String> = generation::covered()
        .chain(drafting::covered())
        .map(str::to_owned)
        .collect();
    assert_eq!(request_fields(), rows);
}
