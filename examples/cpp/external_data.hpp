// Where an ONNX file keeps its weights, read from the protobuf before a runtime opens it. Knows no runtime.
//
// ONNX Runtime below 1.24 follows a location out of the model's folder, so a hostile file could read any other.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <set>
#include <stdexcept>
#include <string>

namespace external_data {

namespace detail {

enum class Message { none, model, training, graph, function, node, attribute, sparse, tensor, entry };

// Return what message a field leads to, by onnx.proto's numbers: none where there can be no tensor in it.
inline Message lead(Message message, std::uint64_t field) {
    struct Lead {
        Message message;
        std::uint64_t field;
        Message to;
    };
    using M = Message;
    constexpr Lead leads[] = {
        {M::model, 7, M::graph},       {M::model, 20, M::training},  {M::model, 25, M::function},
        {M::training, 1, M::graph},    {M::training, 2, M::graph},   {M::graph, 1, M::node},
        {M::graph, 5, M::tensor},      {M::graph, 15, M::sparse},    {M::function, 7, M::node},
        {M::function, 11, M::attribute}, {M::node, 5, M::attribute}, {M::attribute, 5, M::tensor},
        {M::attribute, 6, M::graph},   {M::attribute, 10, M::tensor}, {M::attribute, 11, M::graph},
        {M::attribute, 22, M::sparse}, {M::attribute, 23, M::sparse}, {M::sparse, 1, M::tensor},
        {M::sparse, 2, M::tensor},     {M::tensor, 13, M::entry}};
    for (const Lead& one : leads) {
        if (one.message == message && one.field == field) {
            return one.to;
        }
    }
    return Message::none;
}

// Collects the locations of a file's external weights; skips what cannot lead to one, weights above all.
class Walk {
public:
    explicit Walk(const std::filesystem::path& path) : file_(path, std::ios::binary) {
        message(Message::model, std::filesystem::file_size(path), 0);
    }

    std::set<std::string> locations;

private:
    [[noreturn]] static void fail() { throw std::runtime_error("no protobuf"); }

    void message(Message kind, std::uint64_t end, int depth) {
        if (depth > 64) {
            fail();
        }
        std::string key, value;
        while (at_ < end) {
            const std::uint64_t tag = varint(), wire = tag & 7;
            if (tag < 8 || tag >> 32 != 0) {  // protobuf cuts a tag to 32 bits, and would see another field
                fail();
            }
            if (wire == 0) {
                varint();
            } else if (wire == 1 || wire == 5) {
                skip_to(at_ + (wire == 1 ? 8 : 4));
            } else if (wire == 2) {
                const std::uint64_t size = varint();
                if (at_ > end || size > end - at_) {
                    fail();
                }
                const Message to = lead(kind, tag >> 3);
                if (to != Message::none) {
                    message(to, at_ + size, depth + 1);
                } else if (kind == Message::entry && tag >> 3 <= 2) {
                    (tag >> 3 == 1 ? key : value) = text(size);
                } else {
                    skip_to(at_ + size);
                }
            } else {
                fail();
            }
        }
        if (at_ != end) {
            fail();
        }
        if (key == "location") {
            locations.insert(value);
        }
    }

    std::uint64_t varint() {
        std::uint64_t value = 0;
        for (int shift = 0; shift < 70; shift += 7) {
            const int byte = file_.get();
            if (byte < 0) {
                fail();
            }
            ++at_;
            value |= shift < 64 ? static_cast<std::uint64_t>(byte & 0x7F) << shift : 0;
            if (byte < 0x80) {
                return value;
            }
        }
        fail();
    }

    std::string text(std::uint64_t size) {
        if (size > 65536) {  // no path is so long
            fail();
        }
        std::string found(static_cast<std::size_t>(size), '\0');
        if (!file_.read(found.data(), static_cast<std::streamsize>(size))) {
            fail();
        }
        at_ += size;
        return found;
    }

    void skip_to(std::uint64_t at) {
        at_ = at;
        file_.seekg(static_cast<std::streamoff>(at));
    }

    std::ifstream file_;
    std::uint64_t at_ = 0;
};

inline bool is_inside(const std::filesystem::path& folder, const std::string& location) {
    const std::filesystem::path path = std::filesystem::u8path(location);
    if (path.is_absolute() || path.has_root_path() || location.find('\0') != std::string::npos) {
        return false;
    }
    std::error_code problem;  // such as links that lead to each other
    const auto from_folder = std::filesystem::weakly_canonical(folder / path, problem).lexically_relative(folder);
    return !problem && !from_folder.empty() && *from_folder.begin() != "..";
}

}  // namespace detail

// Return what is wrong with an ONNX file's weights, as the end of a sentence with "has"; nothing where they lie inside
// the file or its folder, or where there is no file. What it says of the file is ASCII without control characters.
inline std::string trouble(const std::string& path) {
    namespace fs = std::filesystem;
    try {
        if (!fs::exists(path)) {
            return "";
        }
        const fs::path folder = fs::canonical(fs::absolute(path).parent_path());
        for (const std::string& location : detail::Walk(path).locations) {
            if (!detail::is_inside(folder, location)) {
                std::string shown = location.substr(0, 200);
                for (char& c : shown) {
                    c = c < ' ' || c > '~' ? '?' : c;
                }
                return "weights outside the model's folder, in '" + shown + "'";
            }
        }
        return "";
    } catch (const std::exception&) {  // no protobuf, a folder, a name that this system cannot have
        return "no readable protobuf";
    }
}

}  // namespace external_data
