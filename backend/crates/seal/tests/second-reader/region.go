package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	segmentSize = 65536
	tagSize     = 16
	regionInfo  = "holdfast region 1\n"
	magic       = "HFSEAL1\n"
)

// region opens the segments of one region.
type region struct {
	id   []byte
	aead cipher.AEAD
}

func regionKey(dataKey, id []byte, context string) ([]byte, error) {
	return hkdf.Key(sha256.New, dataKey, id, regionInfo+context, 32)
}

func newRegion(dataKey, id []byte, context string) (*region, error) {
	key, err := regionKey(dataKey, id, context)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &region{id: id, aead: aead}, nil
}

// place is be64(index) ‖ last.
func place(index uint64, last bool) []byte {
	bytes := binary.BigEndian.AppendUint64(nil, index)
	if last {
		return append(bytes, 1)
	}
	return append(bytes, 0)
}

func nonce(index uint64, last bool) []byte {
	return append([]byte{0, 0, 0}, place(index, last)...)
}

func (r *region) associated(index uint64, last bool) []byte {
	return append(bytes.Clone(r.id), place(index, last)...)
}

func (r *region) open(index uint64, last bool, sealed []byte) ([]byte, error) {
	plain, err := r.aead.Open(nil, nonce(index, last), sealed, r.associated(index, last))
	if err != nil {
		return nil, fmt.Errorf("segment %d of region %x does not match its tag", index, r.id)
	}
	return plain, nil
}

// openDocument opens a sealed document that lies at this key of the target.
func openDocument(objectKey string, document []byte, keys map[string][]byte) ([]byte, error) {
	rest, found := bytes.CutPrefix(document, []byte(magic))
	if !found {
		return nil, errors.New("not a sealed document of version 1")
	}
	if len(rest) < 1 || len(rest) < 1+int(rest[0])+16 {
		return nil, errors.New("the head of the document is cut off")
	}
	behind := 1 + int(rest[0])
	name, rest := string(rest[1:behind]), rest[behind:]
	dataKey, found := keys[name]
	if !found {
		return nil, fmt.Errorf("there is no data key %q", name)
	}
	region, err := newRegion(dataKey, rest[:16], objectKey)
	if err != nil {
		return nil, err
	}
	body := rest[16:]
	var plain []byte
	for index := uint64(0); ; index++ {
		size := min(len(body), segmentSize+tagSize)
		last := size == len(body)
		segment, err := region.open(index, last, body[:size])
		if err != nil {
			return nil, err
		}
		plain = append(plain, segment...)
		if last {
			return plain, nil
		}
		body = body[size:]
	}
}
