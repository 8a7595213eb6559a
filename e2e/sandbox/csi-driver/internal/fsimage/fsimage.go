// Package fsimage recognises, makes and grows the file systems of volumes. It believes only what is on the device.
package fsimage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Names of file systems the driver makes and mounts, as in a StorageClass.
const (
	Ext4 = "ext4"
	XFS  = "xfs"
)

// SectorBytes is the logical block size of every volume's device. A file that shares blocks with a snapshot can be
// written directly only in whole file system blocks, so 512 would turn direct I/O off, or, left to the kernel, a volume's
// sector size would change with its first snapshot and XFS on it could not be mounted any more.
const SectorBytes = 4096

// growTimeout is far beyond what a resize takes here; it only ends one that hangs.
const growTimeout = 10 * time.Minute

// ErrNotOnline says that this machine cannot grow the file system while it is mounted: for ext4 the kernel asks for
// CAP_SYS_RESOURCE, which containers often lack. It grows when it is staged next.
var ErrNotOnline = errors.New("cannot grow while mounted")

// MinXFSBytes is the smallest size that mkfs.xfs accepts.
const MinXFSBytes = 300 << 20

// Supported tells whether a volume may ask for this file system; empty means "any, ext4 if new".
func Supported(fsType string) bool {
	return fsType == "" || fsType == Ext4 || fsType == XFS
}

// Content is what a device holds.
type Content struct {
	// FSType is Ext4 (ext2 and ext3 included: the ext4 driver mounts them) or XFS; empty if neither.
	FSType string
	// SizeBytes is the file system's own size.
	SizeBytes int64
	// Blank is true if every byte reads as zero.
	Blank bool
}

const (
	extSuperblock   = 1024
	extMagicOffset  = extSuperblock + 0x38
	extMagic        = 0xEF53
	extIncompat64   = 0x80
	superblockBytes = 4096
)

// Probe looks at a file or device.
func Probe(path string) (Content, error) {
	file, err := os.Open(path)
	if err != nil {
		return Content{}, err
	}
	defer file.Close()
	head := make([]byte, superblockBytes)
	if _, err := io.ReadFull(file, head); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return Content{}, fmt.Errorf("read %s: %w", path, err)
	}
	if content := parse(head); content.FSType != "" {
		return content, nil
	}
	blank, err := isBlank(file)
	if err != nil {
		return Content{}, fmt.Errorf("read %s: %w", path, err)
	}
	return Content{Blank: blank}, nil
}

func parse(head []byte) Content {
	if bytes.HasPrefix(head, []byte("XFSB")) {
		blockSize := int64(binary.BigEndian.Uint32(head[4:]))
		return Content{FSType: XFS, SizeBytes: int64(binary.BigEndian.Uint64(head[8:])) * blockSize}
	}
	if binary.LittleEndian.Uint16(head[extMagicOffset:]) == extMagic {
		super := head[extSuperblock:]
		blocks := int64(binary.LittleEndian.Uint32(super[0x4:]))
		if binary.LittleEndian.Uint32(super[0x60:])&extIncompat64 != 0 {
			blocks |= int64(binary.LittleEndian.Uint32(super[0x150:])) << 32
		}
		return Content{FSType: Ext4, SizeBytes: blocks << (10 + binary.LittleEndian.Uint32(super[0x18:])&0xf)}
	}
	return Content{}
}

// isBlank reads only allocated ranges and ends at the first byte that is not zero.
func isBlank(file *os.File) (bool, error) {
	buffer := make([]byte, 1<<20)
	zero := make([]byte, len(buffer))
	for offset := int64(0); ; {
		data, err := unix.Seek(int(file.Fd()), offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		hole, err := unix.Seek(int(file.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return false, err
		}
		for offset = data; offset < hole; {
			n, err := file.ReadAt(buffer[:min(int64(len(buffer)), hole-offset)], offset)
			if !bytes.Equal(buffer[:n], zero[:n]) {
				return false, nil
			}
			if err != nil {
				return false, err
			}
			offset += int64(n)
		}
	}
}

// Format makes a file system in a new sparse file.
func Format(ctx context.Context, path, fsType string) error {
	switch fsType {
	case Ext4:
		// The file is known to be zero: without this the kernel would write all inode tables in the background, and every
		// volume would change by itself for minutes.
		return run(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", "-b", strconv.Itoa(SectorBytes),
			"-E", "nodiscard,lazy_itable_init=1,assume_storage_prezeroed=1", path)
	case XFS:
		return run(ctx, "mkfs.xfs", "-q", "-f", "-K", "-s", fmt.Sprintf("size=%d", SectorBytes), path)
	}
	return fmt.Errorf("no such file system: %q", fsType)
}

// FormatPool makes the file system that holds the volumes.
func FormatPool(ctx context.Context, path string) error {
	return run(ctx, "mkfs.xfs", "-q", "-f", "-K", "-m", "reflink=1", path)
}

// Grow makes a mounted file system as large as its device. Nothing to grow is no error.
func Grow(ctx context.Context, fsType, device, mountPoint string) error {
	switch fsType {
	case Ext4:
		err := run(ctx, "resize2fs", device)
		if err != nil && strings.Contains(err.Error(), "Permission denied") {
			return fmt.Errorf("%w: %w", ErrNotOnline, err)
		}
		return err
	case XFS:
		return run(ctx, "xfs_growfs", "-d", mountPoint)
	}
	return fmt.Errorf("cannot grow a file system of type %q", fsType)
}

// GrowUnmounted makes an ext4 file system as large as its device before it is mounted; this needs no privilege, but a
// check first, which also replays the journal.
func GrowUnmounted(ctx context.Context, device string) error {
	// Not ended with the call: a resize that is killed midway leaves a broken file system.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), growTimeout)
	defer cancel()
	err := run(ctx, "e2fsck", "-f", "-p", device)
	const corrected = 1
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == corrected {
		err = nil
	}
	if err != nil {
		return err
	}
	return run(ctx, "resize2fs", device)
}

func run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}
