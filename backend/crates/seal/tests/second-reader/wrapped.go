package main

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"filippo.io/age"
)

const (
	proofInfo   = "holdfast plan proof 1\n"
	proofPrefix = "holdfast key 1\n"
)

func readIdentity(name string) (*age.X25519Identity, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	identities, err := age.ParseIdentities(file)
	if err != nil {
		return nil, err
	}
	if len(identities) != 1 {
		return nil, fmt.Errorf("%s has %d keys, expected one", name, len(identities))
	}
	identity, ok := identities[0].(*age.X25519Identity)
	if !ok {
		return nil, fmt.Errorf("%s is not an X25519 key", name)
	}
	return identity, nil
}

// content is the line inside of a wrapped key.
type content struct {
	Format   uint64 `json:"format"`
	Location string `json:"for"`
	Key      string `json:"key"`
	Proof    string `json:"proof"`
}

// unwrap returns the data key of the backup at this location. Only the plan's key can check who made the file.
func unwrap(file []byte, location string, identity *age.X25519Identity, isPlan bool) ([]byte, error) {
	reader, err := age.Decrypt(bytes.NewReader(file), identity)
	if err != nil {
		return nil, err
	}
	line, err := io.ReadAll(io.LimitReader(reader, 4096))
	if err != nil {
		return nil, err
	}
	var content content
	if err := json.Unmarshal(line, &content); err != nil {
		return nil, err
	}
	if content.Format != 1 {
		return nil, fmt.Errorf("format %d is not known", content.Format)
	}
	if content.Location != location {
		return nil, fmt.Errorf("the wrapped key is that of %s", content.Location)
	}
	key, err := hex.DecodeString(content.Key)
	if err != nil || len(key) != 32 {
		return nil, errors.New("the data key has not 64 hexadecimal digits")
	}
	if !isPlan {
		fmt.Fprintf(os.Stderr, "%s: nothing proves who made this key\n", location)
		return key, nil
	}
	proof, err := hex.DecodeString(content.Proof)
	if err != nil {
		return nil, err
	}
	expected, err := makeProof(identity.String(), location, key)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(proof, expected) {
		return nil, errors.New("the proof is wrong: this plan did not make the key")
	}
	return key, nil
}

func proofKey(identity string) ([]byte, error) {
	return hkdf.Key(sha256.New, []byte(identity), nil, proofInfo, 32)
}

func proofMessage(location string, dataKey []byte) []byte {
	return append([]byte(proofPrefix+location+"\x00"), dataKey...)
}

func makeProof(identity, location string, dataKey []byte) ([]byte, error) {
	key, err := proofKey(identity)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(proofMessage(location, dataKey))
	return mac.Sum(nil), nil
}
