package fsimage

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

func sparse(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestProbeAgreesWithMkfs(t *testing.T) {
	for _, fsType := range []string{Ext4, XFS} {
		for _, size := range []int64{320 << 20, 1 << 40} {
			path := sparse(t, size)
			if err := Format(context.Background(), path, fsType); err != nil {
				t.Fatal(err)
			}
			content, err := Probe(path)
			if err != nil || content.FSType != fsType || content.Blank || content.SizeBytes > size || content.SizeBytes < size-1<<20 {
				t.Errorf("%s of %d bytes: %+v, %v", fsType, size, content, err)
			}
		}
	}
}

func TestParseOf64BitBlockNumbers(t *testing.T) {
	head := make([]byte, superblockBytes)
	super := head[extSuperblock:]
	binary.LittleEndian.PutUint16(super[0x38:], extMagic)
	binary.LittleEndian.PutUint32(super[0x4:], 5)    // blocks, low
	binary.LittleEndian.PutUint32(super[0x150:], 1)  // blocks, high
	binary.LittleEndian.PutUint32(super[0x18:], 2)   // 4 KiB
	if got := parse(head); got.SizeBytes != 5*4096 { // without the 64-bit feature the high part is something else
		t.Errorf("32-bit: %+v", got)
	}
	binary.LittleEndian.PutUint32(super[0x60:], extIncompat64)
	if got := parse(head); got.SizeBytes != (1<<32+5)*4096 {
		t.Errorf("64-bit: %+v", got)
	}
}

func TestProbeOfOtherContent(t *testing.T) {
	path := sparse(t, 64<<20)
	if content, err := Probe(path); err != nil || !content.Blank || content.FSType != "" {
		t.Errorf("sparse: %+v, %v", content, err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt(make([]byte, 3<<20), 5<<20); err != nil {
		t.Fatal(err)
	}
	if content, err := Probe(path); err != nil || !content.Blank {
		t.Errorf("written zeroes: %+v, %v", content, err)
	}
	if _, err := file.WriteAt([]byte{1}, 64<<20-1); err != nil {
		t.Fatal(err)
	}
	if content, err := Probe(path); err != nil || content.Blank || content.FSType != "" {
		t.Errorf("one byte at the end: %+v, %v", content, err)
	}
	if content, err := Probe(sparse(t, 100)); err != nil || !content.Blank {
		t.Errorf("shorter than a superblock: %+v, %v", content, err)
	}
}
