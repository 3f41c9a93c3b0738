//! What a new contract must keep of an old one, so that programs built with the old one work with both.

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    MethodDescriptorProto, field_descriptor_proto::Label,
};
use std::collections::BTreeMap;

/// What others rely on: a thing, or a part of one, by its full name, with everything that it must keep.
type Contract = BTreeMap<String, Promises>;
type Promises = Vec<(&'static str, String)>;

/// What `new` breaks of `old`, a line for each.
pub(crate) fn breakages(old: &FileDescriptorSet, new: &FileDescriptorSet) -> Vec<String> {
    let (old, new) = (contract(old), contract(new));
    let mut found = Vec::new();
    for (name, promises) in &old {
        let Some(kept) = new.get(name) else {
            found.push(format!("{name} is gone"));
            continue;
        };
        for ((promise, old), (_, new)) in promises.iter().zip(kept) {
            if old != new {
                found.push(format!("{name}: {promise} was `{old}`, is `{new}`"));
            }
        }
    }
    found
}

fn contract(set: &FileDescriptorSet) -> Contract {
    let mut contract = Contract::new();
    for file in &set.file {
        let package = file.package();
        for message in &file.message_type {
            take_message(&mut contract, package, message);
        }
        for values in &file.enum_type {
            take_enum(&mut contract, package, values);
        }
        for service in &file.service {
            let name = format!("{package}.{}", service.name());
            for method in &service.method {
                contract.insert(format!("{name}/{}", method.name()), of_method(method));
            }
            contract.insert(format!("service {name}"), Promises::new());
        }
    }
    contract
}

fn take_message(contract: &mut Contract, scope: &str, message: &DescriptorProto) {
    let name = format!("{scope}.{}", message.name());
    for inner in &message.nested_type {
        take_message(contract, &name, inner);
    }
    for values in &message.enum_type {
        take_enum(contract, &name, values);
    }
    for field in &message.field {
        // Fields go by their numbers on the wire.
        let field_name = format!("field {} of {name}", field.number());
        contract.insert(field_name, of_field(message, field));
    }
    contract.insert(format!("message {name}"), Promises::new());
}

fn take_enum(contract: &mut Contract, scope: &str, values: &EnumDescriptorProto) {
    let name = format!("{scope}.{}", values.name());
    for value in &values.value {
        let promises = vec![("name", value.name().to_owned())];
        contract.insert(format!("value {} of {name}", value.number()), promises);
    }
    contract.insert(format!("enum {name}"), Promises::new());
}

fn of_method(method: &MethodDescriptorProto) -> Promises {
    vec![
        ("request", method.input_type().to_owned()),
        ("response", method.output_type().to_owned()),
        ("client streaming", method.client_streaming().to_string()),
        ("server streaming", method.server_streaming().to_string()),
    ]
}

fn of_field(message: &DescriptorProto, field: &FieldDescriptorProto) -> Promises {
    let kind = format!("{} {}", field.r#type().as_str_name(), field.type_name());
    vec![
        ("name", field.name().to_owned()),
        ("JSON name", json_name(field)),
        ("type", kind.trim_end().to_owned()),
        ("repeated", (field.label() == Label::Repeated).to_string()),
        ("optional", field.proto3_optional().to_string()),
        ("oneof", oneof(message, field).to_owned()),
    ]
}

/// The oneof that a field belongs to; one that stands for `optional` does not count.
fn oneof<'a>(message: &'a DescriptorProto, field: &FieldDescriptorProto) -> &'a str {
    let index = field.oneof_index.filter(|_| !field.proto3_optional());
    let oneof = index.and_then(|index| message.oneof_decl.get(index as usize));
    oneof.map_or("", |oneof| oneof.name())
}

/// Where a descriptor leaves it out, it is the name in camel case.
fn json_name(field: &FieldDescriptorProto) -> String {
    if let Some(name) = &field.json_name {
        return name.clone();
    }
    let mut words = field.name().split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let (head, tail) = word.split_at(word.len().min(1));
        name + &head.to_uppercase() + tail
    })
}
