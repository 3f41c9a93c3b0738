//go:build protobuf13
// +build protobuf13

package main

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/proto"
)

// codec lets a gRPC that was built on github.com/golang/protobuf 1.3, as Debian 12 has it, carry messages of
// the present generator. Newer ones need nothing of this.
type codec struct{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(value interface{}) ([]byte, error) {
	message, is := value.(proto.Message)
	if !is {
		return nil, fmt.Errorf("%T is no message", value)
	}
	return proto.Marshal(message)
}

func (codec) Unmarshal(bytes []byte, value interface{}) error {
	message, is := value.(proto.Message)
	if !is {
		return fmt.Errorf("%T is no message", value)
	}
	return proto.Unmarshal(bytes, message)
}

func init() { encoding.RegisterCodec(codec{}) }
